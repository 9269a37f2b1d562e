"""Recognise yes/no values and numbers in annotation files."""


def flag(value: object) -> bool | None:
    """Return the boolean for 0, 1, true, false, or one of these as text; None for anything else."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in ("1", "true"):
        return True
    if word in ("0", "false"):
        return False
    return bool(word) if isinstance(word, int | float) and word in (0, 1) else None


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float, and no boolean; integers must fit a float."""
    return type(value) is float or (type(value) is int and abs(value) >> 1023 == 0)
