"""Training and evaluation with Lightning; import it only if needed, since Lightning takes seconds to import."""
