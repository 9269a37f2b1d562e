"""Read yes/no values in annotation files."""


def flag(value: object) -> bool | None:
    """Return the boolean for 0, 1, true, false, or one of these as text; None for anything else."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in ("1", "true"):
        return True
    if word in ("0", "false"):
        return False
    return bool(word) if isinstance(word, int | float) and word in (0, 1) else None
