"""Kernels for GPUs; :mod:`backbones.fast.kernels` says when they are used."""
