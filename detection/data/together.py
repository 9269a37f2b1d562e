"""Batches of different length as items of a data set, for loaders without a batch sampler."""

from typing import Any, Protocol

from torch.utils.data import Dataset


class Images(Protocol):
    """A data set of samples, several at once."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: list[Any], /) -> list[Any]:
        """Return the samples of several images."""
        ...


class Together(Dataset[list[Any]]):
    """A data set that maps a list of image indices to a list of samples."""

    def __init__(self, data: Images) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, numbers: list[int]) -> list[Any]:
        return self.data.__getitems__(numbers)
