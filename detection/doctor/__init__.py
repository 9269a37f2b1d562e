"""A data set and a detector looked at together, before any training."""
