"""The worked examples of docs/architecture.md run: the test extracts each from the file and executes it unchanged."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.fast import switch
from detection import fast, mask_rcnn
from tests.support import detectors

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 40
"""Lines of an example."""

SECTION = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("\n## Adding a part\n")[2]
SECTION = SECTION.partition("\n## ")[0]
EXAMPLES: dict[str, str] = dict(re.findall(r"^### (.+?)\n.*?```python\n(.*?)```", SECTION, flags=re.S | re.M))


def run(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(EXAMPLES[example], example, "exec"), names)
    return names


def test_there_is_a_short_example_of_each_part() -> None:
    assert list(EXAMPLES) == ["A new head", "A new backbone", "A faster way", "A new data format"]
    assert max(len(example.splitlines()) for example in EXAMPLES.values()) <= LONGEST


def test_contributing_links_to_every_example() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert f"docs/architecture.md#{example.lower().replace(' ', '-')})" in text


@pytest.mark.slow
def test_the_head_learns_and_changes_scores() -> None:
    model = run("A new head")["model"]
    batch = detectors.make_batch([[([10.0, 10, 60, 60], 1, False)], []])
    losses = model.train().losses(batch)
    assert {"loss_quality", "loss_cls", "loss_rpn_cls"} <= losses.keys()
    losses["loss_quality"].backward()
    assert model.quality_head.quality.weight.grad.abs().sum() > 0
    model.eval().box_head.config = detectors.make_tiny().box_head.config  # which keeps all scores
    with torch.no_grad():
        features = model.features(batch.images, batch.sizes)
        found = model(batch.images, batch.sizes, features)
        quality = model.quality_head(features, found.boxes)
        model.region_names = ()
        before = model(batch.images, batch.sizes, features)
    assert (before.scores > 0).any()
    torch.testing.assert_close(found.scores, before.scores * quality)


@pytest.mark.slow
def test_the_backbone_is_found_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my_net.py"
    path.write_text(EXAMPLES["A new backbone"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    model = mask_rcnn("my_net.MyNet", num_classes=3)
    model.backbone.freeze(2)
    losses = model.train().losses(detectors.make_batch([[([10.0, 10, 60, 60], 1, False)], []]))
    sum(losses.values()).backward()
    learns = {name.partition(".")[2][:1] for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert learns == {"1", "2", "3"}
    detections = runpy.run_path(str(path), run_name="__main__")["detections"]
    assert detections.boxes.shape == (1, 100, 4)


def test_the_faster_way_is_taken_and_leaves_hooks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "is_off", lambda *_: False)
    monkeypatch.setattr(fast, "FASTER", fast.FASTER)  # which the example replaces
    names = run("A faster way")  # compares the two itself
    converted, regions = names["plain"], names["regions"]
    assert type(converted) is names["FastCellScore"]
    called: list[int] = []
    converted.score.register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(converted(regions), names["expected"])
    assert called == [1]
    assert type(fast.revert(converted)) is names["CellScore"]


def test_the_reader_gives_what_training_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("A new data format")
    annotations = names["annotations"]
    assert annotations.boxes(0).tolist() == [[5, 5, 30, 40]]
    assert annotations.counts().tolist() == [1, 0]
    assert not annotations.report
    assert "1 with objects, 1 without objects" in capsys.readouterr().out
