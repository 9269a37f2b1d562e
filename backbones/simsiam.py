"""SimSiam: train a network on images without labels, by comparing two views of each image.

Chen and He 2020, "Exploring simple Siamese representation learning", arXiv 2011.10566. The network and a projector turn
a view into an output z. A predictor turns z into p, which learns to point in the direction of the other view's z. That
z gets no gradient: with one, the outputs of all images become equal (section 4.1).

B images   C features   D outputs
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.classifiers import Classifier, ClassifierConfig, Preprocessing, build_classifier


@dataclass(frozen=True)
class SimSiamConfig:
    """Projector and predictor of SimSiam."""

    outputs: int = 2048
    """Outputs of the projector and of the predictor, and the inner width of the projector."""
    inner: int = 512
    """Inner width of the predictor; a quarter of outputs in the paper."""
    constant_rate: bool = True
    """Keep the learning rate of the predictor constant, whatever the schedule (section 4.2)."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: a width is below 2.
        """
        if min(self.outputs, self.inner) < 2:
            raise ValueError(f"model.simsiam.outputs {self.outputs} and inner {self.inner} must be at least 2")


class Outputs(NamedTuple):
    """Predictions and outputs of two views, each (B, D)."""

    p1: Tensor
    p2: Tensor
    z1: Tensor
    z2: Tensor


class SimSiam(nn.Module):
    """A classifier's network without its last layer, with a projector and a predictor after it.

    ``network`` has the state dict of torchvision or timm, without the last layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier, config: SimSiamConfig) -> None:
        super().__init__()
        self.config, self.network = model.config, model.network
        features, width = model.last_layer.in_features, config.outputs
        self.network.set_submodule(model.last, nn.Identity())
        norm = nn.SyncBatchNorm if model.config.norm == "sync" else nn.BatchNorm1d
        # No biases before norms. The paper's projector has three layers, its predictor two (section 3).
        self.projector = nn.Sequential(
            *(nn.Linear(features, width, bias=False), norm(width), nn.ReLU()),
            *(nn.Linear(width, width, bias=False), norm(width), nn.ReLU()),
            *(nn.Linear(width, width, bias=False), norm(width, affine=False)),
        )
        self.predictor = nn.Sequential(
            *(nn.Linear(width, config.inner, bias=False), norm(config.inner), nn.ReLU()),
            nn.Linear(config.inner, width),
        )
        self.set_preprocessing(model.preprocessing)

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Set how images become inputs; :meth:`features` applies its mean and std."""
        self.preprocessing = preprocessing
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, C) of images (B, 3, H, W), RGB in 0..255, uint8 or float."""
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)  # type: ignore[no-any-return]

    def forward(self, one: Tensor, two: Tensor) -> Outputs:
        """Return the predictions and outputs of two views (B, 3, H, W) of the same images."""
        z1, z2 = (self.projector(self.features(view)) for view in (one, two))
        return Outputs(self.predictor(z1), self.predictor(z2), z1, z2)


def build_simsiam(network: ClassifierConfig, config: SimSiamConfig) -> SimSiam:
    """Build the network that a config describes, with SimSiam's projector and predictor.

    Raises:
        ValueError: as for :func:`~backbones.classifiers.build_classifier`; or the network has dropout, which belongs to
            its last layer, or frozen norms.
    """
    if network.dropout:
        raise ValueError(f"model.network.dropout {network.dropout}: pretraining has no last layer; set it to 0")
    if network.norm == "frozen":
        raise ValueError("model.network.norm frozen: a network without labels learns its norms; use batch or sync")
    return SimSiam(build_classifier(1, network), config)


def simsiam_loss(outputs: Outputs) -> Tensor:
    """Return the mean over images and views of the negative cosine similarity of p and the other view's z.

    Algorithm 1 of the paper. The loss is from -1 to 1; only the predictions have gradients.
    """
    p1, p2, z1, z2 = (values.float() for values in outputs)
    one, two = (F.cosine_similarity(p, z.detach(), dim=1).mean() for p, z in ((p1, z2), (p2, z1)))
    return -(one + two) / 2


def spread(outputs: Tensor) -> Tensor:
    """Return the standard deviation of normalised outputs (B, D) over images, times the square root of D.

    It is near 1 if the directions are random, and 0 if all images have the same output (section 4.1, figure 2).
    """
    directions = F.normalize(outputs.detach().float(), dim=1)
    return directions.std(dim=0).mean() * directions.shape[1] ** 0.5


def rank(outputs: Tensor) -> Tensor:
    """Return the effective number of dimensions in which normalised outputs (B, D) differ, from 1 to B - 1.

    It is (sum of l)^2 / (sum of l^2), for the eigenvalues l of their covariance. The last norm of the projector gives
    each output a mean of 0. So outputs that have collapsed in a small batch are those of one image against those of all
    others: their spread is far from 0, and their rank is 1.
    """
    directions = F.normalize(outputs.detach().float(), dim=1)
    centred = directions - directions.mean(dim=0)
    products = centred @ centred.T  # (B, B), with the eigenvalues of the covariance
    return products.trace().square() / products.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
