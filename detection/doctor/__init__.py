"""Check a data set, and whether the settings of a detector fit it, before training."""
