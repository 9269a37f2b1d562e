import copy

import pytest
import torch

from detection.backbone_tool.steps import Steps, synthetic_batch


@pytest.fixture(scope="module")
def batch():
    return synthetic_batch(64, 2)


@pytest.mark.slow
def test_a_drawn_batch_has_objects_and_sizes_as_asked(batch):
    assert batch.sizes.amin(dim=1).tolist() == [64, 64]
    assert batch.sizes.max() <= 64 * 1333 // 800
    assert (batch.targets.labels >= 0).any(dim=1).all()
    assert batch.targets.masks is not None
    assert len(synthetic_batch(64, 45).images) == 45  # more than are drawn


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_step_learns_and_an_inference_detects(tiny_model, batch, precision):
    model = copy.deepcopy(tiny_model)
    batch = batch._replace(targets=batch.targets._replace(labels=batch.targets.labels.clamp(max=1)))
    before = model.box_head.logits.weight.clone()
    steps = Steps(model, torch.device("cpu"), precision)
    steps.train(batch)
    assert not torch.equal(model.box_head.logits.weight, before)
    evaluated = steps.evaluated()
    assert not evaluated.training
    found = steps.infer(evaluated, batch)
    assert found.masks is not None
    assert found.boxes.isfinite().all()
