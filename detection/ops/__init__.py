"""Functions on tensors: no weights, no config, no files, no Python loop over images."""
