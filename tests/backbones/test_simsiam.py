"""SimSiam: its loss is the paper's, the other view gets no gradient, and equal outputs are noticed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.classifiers import ClassifierConfig, build_classifier
from backbones.simsiam import Outputs, SimSiamConfig, build_simsiam, rank, simsiam_loss, spread
from detection.evaluation.probe import nearest_neighbours
from tests.support.labelled import digit

SMALL = SimSiamConfig(outputs=24, inner=6)


def small(**options):
    torch.manual_seed(0)
    return build_simsiam(ClassifierConfig("resnet10", width=8, **options), SMALL)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_the_formula_of_the_paper():
    outputs = Outputs(*drawn(4, 5, 7))
    expected = 0.0
    for p, z in ((outputs.p1, outputs.z2), (outputs.p2, outputs.z1)):
        for i in range(5):
            lengths = math.sqrt(sum(float(v) ** 2 for v in p[i])) * math.sqrt(sum(float(v) ** 2 for v in z[i]))
            expected -= sum(float(a) * float(b) for a, b in zip(p[i], z[i], strict=True)) / lengths / 5 / 2
    assert float(simsiam_loss(outputs)) == pytest.approx(expected, abs=1e-6)
    same = drawn(5, 7)
    assert float(simsiam_loss(Outputs(same, same, 3 * same, 2 * same))) == pytest.approx(-1)


def test_only_the_predictions_have_gradients():
    outputs = Outputs(*(values.requires_grad_() for values in drawn(4, 5, 7).unbind()))
    simsiam_loss(outputs).backward()
    assert outputs.z1.grad is None
    assert outputs.z2.grad is None
    assert float(outputs.p1.grad.abs().sum()) > 0
    assert float(outputs.p2.grad.abs().sum()) > 0


@pytest.mark.slow
def test_the_gradient_is_that_of_constant_targets():
    """The network's gradient is the one with the outputs of the other view replaced by their values."""
    model, views = small(), drawn(2, 4, 3, 16, 16) * 60 + 120
    found = torch.autograd.grad(simsiam_loss(model(*views)), list(model.parameters()))
    p1, p2, z1, z2 = model(*views)
    fixed1, fixed2 = z1.detach().clone(), z2.detach().clone()
    terms = ((p1 * fixed2).sum(1) / (p1.norm(dim=1) * fixed2.norm(dim=1)), (p2 * fixed1).sum(1))
    loss = -(terms[0].mean() + (terms[1] / (p2.norm(dim=1) * fixed1.norm(dim=1))).mean()) / 2
    for ours, expected in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, expected)


def test_each_view_has_its_own_statistics():
    """As in the paper's code, a batch norm sees one view at a time."""
    model, views = small(), drawn(2, 6, 3, 32, 32) * 60 + 120
    outputs = model(*views)
    assert [tuple(values.shape) for values in outputs] == [(6, 24)] * 4
    for z in (outputs.z1, outputs.z2):
        torch.testing.assert_close(z.mean(dim=0), torch.zeros(24), atol=1e-5, rtol=0)


def test_the_spread_is_one_for_random_directions_and_zero_for_equal_ones():
    assert float(spread(drawn(2000, 64))) == pytest.approx(1, abs=0.01)
    assert float(spread(drawn(1, 64).expand(10, 64))) == pytest.approx(0, abs=1e-6)


def test_the_rank_is_the_number_of_dimensions_in_which_outputs_differ():
    assert float(rank(drawn(4000, 16))) == pytest.approx(16, rel=0.02)
    assert float(rank(drawn(500, 3) @ drawn(3, 64))) < 3.01
    one_apart = torch.ones(8, 64) * torch.tensor([-7.0, *[1.0] * 7])[:, None]
    assert float(rank(one_apart)) == pytest.approx(1, abs=1e-5)
    assert float(spread(one_apart)) == pytest.approx(0.7071, abs=1e-3)
    assert float(rank(torch.ones(8, 64))) < 1.01


def test_the_network_is_the_classifiers_without_its_last_layer():
    for name, options in (("resnet10", {"width": 8}), ("mobilenet_v3_small", {})):
        torch.manual_seed(0)
        model = build_simsiam(ClassifierConfig(name, **options), SMALL).eval()
        whole = build_classifier(1, ClassifierConfig(name, **options)).eval()
        theirs = whole.network.state_dict()
        own = model.network.state_dict()
        last = whole.last
        assert theirs.keys() - own.keys() == {f"{last}.weight", f"{last}.bias"}
        whole.network.load_state_dict(own, strict=False)
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(model.features(images), whole.features(images))


def test_norms_of_all_devices_are_those_of_the_heads_too():
    model = small(norm="sync")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 4
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dropout": 0.1}, "model.network.dropout 0.1"), ({"norm": "frozen"}, "model.network.norm frozen")],
)
def test_settings_without_effect_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
    with pytest.raises(ValueError, match="must be at least 2"):
        SimSiamConfig(inner=1).check()


def digits(count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return (N, 1, 32, 32) images of equal background and contrast, and (N,) labels.

    Both views of an image have its own background. With random ones, the network learns these instead of the shapes.
    """
    labels = torch.arange(count) % 10
    images = torch.from_numpy(np.stack([digit(int(k), generator)[..., 0] for k in labels])).float()[:, None]
    background = images[:, :, :3].mean((2, 3), keepdim=True)
    return ((images - background) / (images.amax((2, 3), keepdim=True) - background) * 160 + 40).clamp(0, 255), labels


def view(images: Tensor) -> Tensor:
    """Cut from half to all of the area, turn by up to 15 degrees, and scale the brightness by 0.4 to 1.6."""
    side = torch.empty(len(images)).uniform_(0.5, 1).sqrt()
    angle = torch.empty(len(images)).uniform_(-15, 15).deg2rad()
    x, y = ((2 * torch.rand(len(images)) - 1) * (1 - side) for _ in range(2))
    rows = [
        torch.stack([side * angle.cos(), -side * angle.sin(), x], 1),
        torch.stack([side * angle.sin(), side * angle.cos(), y], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), images.shape, align_corners=False)  # type: ignore[arg-type]
    cut = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return (cut * torch.empty(len(images), 1, 1, 1).uniform_(0.4, 1.6)).clamp(0, 255).expand(-1, 3, -1, -1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_features_of_digits_become_better_than_random_ones(seed):
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    (images, labels), (tested, truth) = digits(1000, generator), digits(500, generator)
    model = build_simsiam(ClassifierConfig("resnet10", width=8), SimSiamConfig(outputs=128, inner=32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    @torch.no_grad()
    def accuracy() -> float:
        model.eval()
        known, features = (model.features(some.expand(-1, 3, -1, -1)) for some in (images, tested))
        model.train()
        return float((nearest_neighbours(known, labels, features) == truth).float().mean())

    start = accuracy()
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.025 * (1 + math.cos(math.pi * step / 150))
        some = images[torch.randperm(1000)[:64]]
        loss = simsiam_loss(model(view(some), view(some)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    end = accuracy()
    assert end > start + 0.04
