"""GPU kernels in Triton; :func:`backbones.fast.kernels.usable` decides when to use them."""
