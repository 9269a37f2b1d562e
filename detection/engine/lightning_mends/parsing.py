"""Parse the command line without converting integers to floats, and without abbreviated options."""

from typing import Any

import lightning.pytorch


def keep_whole_limits() -> None:
    """Read ``trainer.limit_val_batches 1`` as one batch.

    Lightning declares its limits as ``Union[int, float, None]``. Python caches one object for all unions of the same
    types, with the order of the first one. jsonargparse tries the types in that order: 1 could become 1.0, which means
    all batches. A union written with ``|`` keeps its own order.
    """
    hints = lightning.pytorch.Trainer.__init__.__annotations__
    limits = {name for name, hint in hints.items() if name.startswith("limit_") and hint == int | float | None}
    hints.update(dict.fromkeys(limits, int | float | None))


class NoAbbreviations:
    """Reject abbreviated options; in the list of bases, this class comes before a parser of Lightning.

    argparse has an argument against abbreviations, but Lightning does not pass it to its subcommands.
    """

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []
