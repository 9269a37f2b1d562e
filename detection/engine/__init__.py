"""Training and evaluation with Lightning; imported when asked for, as Lightning takes seconds to import."""
