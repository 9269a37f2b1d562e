"""Functions on tensors, without weights, configs, files or Python loops over images."""
