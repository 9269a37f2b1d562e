"""Kernels for GPUs; :mod:`backbones.kernels` says when they are used."""
