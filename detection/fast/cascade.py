"""A faster cascade: all stages read one table of the pyramid, and add their gradients to one tensor."""

from collections.abc import Sequence

from torch import Tensor

from detection.fast.levels import Pyramid, levels_of, with_gradient_sum
from detection.models.cascade import CascadeHead, scale_gradient


class FastCascadeHead(CascadeHead):
    """:class:`~detection.models.cascade.CascadeHead` that scales the gradient of the table once for all stages."""

    def scaled(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        levels = levels_of(features)
        if self.gradient_factor == 1:
            return Pyramid(levels)
        vectors = scale_gradient(levels.vectors, self.gradient_factor)
        return Pyramid(with_gradient_sum(levels._replace(vectors=vectors, gradient=None)))
