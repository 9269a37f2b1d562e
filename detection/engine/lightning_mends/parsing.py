"""The command line: whole numbers stay whole, and options are written out."""

from typing import Any

import lightning.pytorch


def keep_whole_limits() -> None:
    """Read ``trainer.limit_val_batches 1`` as one batch.

    Lightning declares its limits as ``Union[int, float, None]``. Python keeps one object for all unions of the same
    types, in the order that was written first anywhere. jsonargparse tries the types in that order: 1 would become 1.0,
    which is all batches. A union made by ``|`` keeps its own order.
    """
    hints = lightning.pytorch.Trainer.__init__.__annotations__
    limits = {name for name, hint in hints.items() if name.startswith("limit_") and hint == int | float | None}
    hints.update(dict.fromkeys(limits, int | float | None))


class NoAbbreviations:
    """A parser that takes whole options only; before a parser of Lightning in the list of bases.

    argparse switches abbreviations off by an argument that Lightning's subcommands do not get.
    """

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []
