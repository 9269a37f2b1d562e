"""Stochastic depth of ResNets: training skips the convolutions of a block at random, for each image of its own.

Huang et al. 2016, "Deep networks with stochastic depth": later blocks are skipped more often, by a linear rule.
"""

from torch import Tensor, nn

from backbones.resnet import BasicBlock, Bottleneck, ResNet, add_input


class SkippedBasicBlock(BasicBlock):
    """A basic block whose convolutions training skips with the probability ``skip``."""

    skip = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return add_input(_skipped(y, self.skip, self.training), x, self).relu()


class SkippedBottleneck(Bottleneck):
    """A bottleneck whose convolutions training skips with the probability ``skip``."""

    skip = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return add_input(_skipped(self.bn3(self.conv3(y)), self.skip, self.training), x, self).relu()


KINDS: dict[type[nn.Module], type[SkippedBasicBlock | SkippedBottleneck]] = {
    BasicBlock: SkippedBasicBlock,
    Bottleneck: SkippedBottleneck,
}


def set_stochastic_depth(network: ResNet, rate: float) -> None:
    """Let training skip blocks: the last one with the probability ``rate``, the first one never, linear in between.

    The parameters keep their names.

    Raises:
        ValueError: the network has no shortcuts.
    """
    blocks = [block for block in network.modules() if isinstance(block, BasicBlock | Bottleneck)]
    if not all(block.shortcut for block in blocks):
        raise ValueError("drop_path: a network without shortcuts cannot skip a block; leave it out")
    for place, block in enumerate(blocks):
        block.__class__ = KINDS[type(block)]
        block.skip = rate * place / max(1, len(blocks) - 1)  # type: ignore[assignment]  # a float, as the class says


def _skipped(y: Tensor, probability: float, training: bool) -> Tensor:
    """Set the whole map of some images to zero, and divide the others by the probability to stay."""
    from torchvision.ops import stochastic_depth  # here, as its import takes longer than that of PyTorch

    return stochastic_depth(y, probability, "row", training)
