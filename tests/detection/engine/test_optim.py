import pytest
import torch
from torch import nn

from backbones import BackboneConfig, build
from detection.engine.optim import OptimizerConfig, build_optimizer, parameter_groups


@pytest.fixture
def model():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    layers[0].weight.requires_grad_(False)
    return layers


@pytest.mark.parametrize(
    ("norms", "biases", "decayed", "others"),
    [
        # learn: conv bias 4; batch norm 4 + 4; group norm 4 + 4; linear weight 8, bias 2
        (False, True, 4 + 8 + 2, 16),
        (False, False, 8, 16 + 4 + 2),
        (True, True, 16 + 4 + 8 + 2, 0),
        (True, False, 16 + 8, 4 + 2),
    ],
)
def test_groups_by_decay(model, norms, biases, decayed, others):
    groups = parameter_groups(model, OptimizerConfig(decay_norms=norms, decay_biases=biases, weight_decay=0.5))
    sizes = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {0.5: decayed} | ({0.0: others} if others else {})


def test_named_parameters_do_not_decay(model):
    groups = parameter_groups(model, OptimizerConfig(undecayed=("3.weight", "0.*"), weight_decay=0.5))
    sizes = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {0.5: 2, 0.0: 8 + 4 + 16}  # only the bias of the linear layer decays


def test_biases_of_attention_are_biases():
    attention = nn.MultiheadAttention(8, 2)  # in_proj_bias 24, out_proj.bias 8; weights 192 and 64
    groups = parameter_groups(attention, OptimizerConfig(decay_biases=False, weight_decay=0.5))
    sizes = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {0.5: 192 + 64, 0.0: 24 + 8}


def test_a_shared_parameter_is_stepped_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    groups = parameter_groups(nn.Sequential(first, second), OptimizerConfig())
    assert sum(len(group["params"]) for group in groups) == 3


def test_sgd_step_by_hand(model):
    optimizer = build_optimizer(model, OptimizerConfig(momentum=0.9, weight_decay=0.1), lr=0.5)
    weight = model[3].weight
    with torch.no_grad():
        weight.fill_(1.0)
    weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    # gradient 2 + decay 0.1 * 1 = 2.1; 1 - 0.5 * 2.1 = -0.05
    torch.testing.assert_close(weight.data, torch.full((2, 4), -0.05))


def test_adamw_by_name(model):
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", betas=(0.8, 0.9)), lr=1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


class Detector(nn.Module):
    def __init__(self, name):
        super().__init__()
        with torch.device("meta"):
            self.backbone = build(BackboneConfig(name))
            self.head = nn.Linear(2, 2)


def test_layer_decay_falls_from_the_last_layer_to_the_first():
    model = Detector("resnet18")
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.5), lr=0.32)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    # five layers, the stem the first: 0.32 * 0.5 ** 5 = 0.01
    body = model.backbone
    parts = (body.conv1, body.layer1, body.layer2, body.layer3, body.layer4, model.head)
    for part, rate in zip(parts, (0.01, 0.02, 0.04, 0.08, 0.16, 0.32), strict=True):
        assert [rates[id(p)] for p in part.parameters()] == pytest.approx([rate] * len(list(part.parameters())))
    assert optimizer.param_groups[0]["lr"] == 0.32  # the one that is logged
    assert len(rates) == len(list(model.parameters()))


def test_layers_of_a_transformer_are_its_blocks_and_its_pyramid_learns_at_the_full_rate():
    model = Detector("vit_b_16")
    groups = parameter_groups(model, OptimizerConfig(layer_decay=0.7))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales[id(model.backbone.positions)] == pytest.approx(0.7**13)
    assert scales[id(model.backbone.blocks[0].ln_1.weight)] == pytest.approx(0.7**12)
    assert scales[id(model.backbone.blocks[11].ln_1.weight)] == pytest.approx(0.7)
    assert {scales[id(p)] for p in model.backbone.pyramid.parameters()} == {1.0}


@pytest.mark.parametrize("decay", [0.0, 1.1, -1.0])
def test_a_layer_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        OptimizerConfig(layer_decay=decay).check()


class Laid(nn.Module):
    """Parameters that lie in memory in different ways."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.single = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)
        self.linear = nn.Linear(4, 2)


def step_twice(optimizer, model, layout):
    """Two steps, gradients laid as given, momentum moved to another layout between them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            if p.ndim == 4:
                p.grad = p.grad.contiguous(memory_format=layout)
        optimizer.step()
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            for name, value in state.items():
                state[name] = value.contiguous() if isinstance(value, torch.Tensor) else value
        optimizer.load_state_dict(saved)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_fused_step_is_the_plain_one_however_tensors_lie(name, layout):
    ends = []
    for fused in (False, True):
        model = Laid()
        optimizer = build_optimizer(model, OptimizerConfig(name=name, weight_decay=0.1), lr=0.1, fused=fused)
        ends.append(step_twice(optimizer, model, layout))
    for plain, fused in zip(*ends, strict=True):
        torch.testing.assert_close(plain, fused)


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_does_not_decide_about_the_kernels(saved):
    theirs, ours = (build_optimizer(Laid(), OptimizerConfig(), lr=0.1, fused=fused) for fused in (saved, not saved))
    before = [(group["foreach"], group["fused"]) for group in ours.param_groups]
    theirs.param_groups[0]["lr"] = 0.7
    ours.load_state_dict(theirs.state_dict())
    assert [(group["foreach"], group["fused"]) for group in ours.param_groups] == before
    assert ours.param_groups[0]["lr"] == 0.7


def test_the_trap_pytorchs_fused_step_mixes_up_what_lies_differently():
    """If this fails, PyTorch has mended it, and our hook can go."""
    ends = []
    for fused in (False, True):
        model = Laid()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        ends.append(step_twice(optimizer, model, torch.channels_last))
    assert not torch.allclose(ends[0][0], ends[1][0])  # the 3x3 convolution


@pytest.mark.parametrize("precision", [pytest.param("bf16-mixed", marks=pytest.mark.slow), "32-true"])
def test_lightning_clips_the_gradients_of_a_fused_optimizer(run, precision):
    options = ["--trainer.gradient_clip_val", "1", "--trainer.precision", precision, "--trainer.max_steps", "1"]
    assert run("fit", *options, "--trainer.limit_val_batches", "0") == 0
