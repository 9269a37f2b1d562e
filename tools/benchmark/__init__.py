"""Our speed beside a peer's, in turn, in one run: ``tools/benchmark.py``."""
