"""The finest level against the same steps one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from backbones.fast import conv as convolutions
from detection.fast import finest as module
from detection.fast.finest import add_enlarged, finest_level


@pytest.fixture(params=[1, 10**9], ids=["large", "small"])
def _size(request, monkeypatch):
    """From which on maps are large."""
    monkeypatch.setattr(convolutions, "_LARGE", request.param)


def layers() -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    convs = nn.Conv2d(5, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
    return tuple(conv.to(memory_format=torch.channels_last) for conv in convs)  # type: ignore[return-value]


def maps() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    shapes = (3, 5, 8, 12), (3, 8, 4, 6)
    stage, coarser = (torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes)
    return stage.requires_grad_(), coarser.requires_grad_()


def plain(stage: Tensor, coarser: Tensor, lateral: nn.Conv2d, output: nn.Conv2d) -> Tensor:
    return output(lateral(stage) + F.interpolate(coarser, scale_factor=2, mode="nearest"))


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("frozen", ["nothing", "stage", "coarser", "lateral", "output", "maps"])
def test_result_and_gradients_are_those_of_the_plain_steps(frozen):
    convs, (stage, coarser) = layers(), maps()
    stage.requires_grad_(frozen not in ("stage", "maps"))
    coarser.requires_grad_(frozen not in ("coarser", "maps"))
    for name, conv in zip(("lateral", "output"), convs, strict=True):
        conv.requires_grad_(frozen != name)
    learning = [x for x in (stage, coarser, *(p for conv in convs for p in conv.parameters())) if x.requires_grad]
    ours, theirs = finest_level(stage, coarser, *convs), plain(stage, coarser, *convs)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    mine, expected = (torch.autograd.grad((y * weight).sum(), learning) for y in (ours, theirs))
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_size")
def test_under_autocast_the_gradients_of_parameters_are_float32():
    convs, (stage, coarser) = layers(), maps()
    parameters = [p for conv in convs for p in conv.parameters()]
    results = []
    for compute in (finest_level, plain):
        with torch.autocast("cpu", torch.bfloat16):
            y = compute(stage, coarser, *convs)
        assert y.dtype == torch.bfloat16
        results.append(torch.autograd.grad(y.float().square().sum(), [stage, coarser, *parameters]))
    for mine, expected in zip(*results, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, expected, rtol=0, atol=2e-2 * expected.abs().max().item())


def test_the_sum_is_gone_before_its_gradient_comes(monkeypatch):
    convs, given = layers(), maps()
    merged, backward = module._merged, convolutions._backward
    made: list[StorageWeakRef] = []
    alive: list[bool] = []

    def watched_sum(*arguments):
        made.append(StorageWeakRef((y := merged(*arguments)).untyped_storage()))
        return y

    def watched(*arguments):
        alive.append(not made[-1].expired())
        return backward(*arguments)

    monkeypatch.setattr(module, "_merged", watched_sum)
    monkeypatch.setattr(convolutions, "_backward", watched)
    y = finest_level(*given, *convs)
    assert made[0].expired()
    y.sum().backward()
    assert len(made) == 2
    assert alive == [True, False, False, False]  # gradients of the second layer, the sum, the first layer, the stage


def test_large_maps_are_made_again_one_image_after_the_other(monkeypatch):
    monkeypatch.setattr(convolutions, "_LARGE", 1)
    convs, given = layers(), maps()
    merged = module._merged
    sizes: list[int] = []

    def watched(*arguments):
        sizes.append(len(y := merged(*arguments)))
        return y

    monkeypatch.setattr(module, "_merged", watched)
    finest_level(*given, *convs).sum().backward()
    assert sizes == [3, 1, 1, 1]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_a_coarser_map_is_added_as_if_it_were_enlarged(size, layout):
    torch.manual_seed(0)
    x, coarser = torch.randn(2, 6, *size).contiguous(memory_format=layout).requires_grad_(), torch.randn(2, 6, 4, 5)
    coarser = coarser.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(2, 6, *size)
    ours = add_enlarged(x * 1, coarser)
    theirs = x + F.interpolate(coarser, size=size, mode="nearest")
    assert torch.equal(ours, theirs)
    mine, plain = (torch.autograd.grad((y * weight).sum(), [x, coarser]) for y in (ours, theirs))
    assert all(torch.equal(*pair) for pair in zip(mine, plain, strict=True))
