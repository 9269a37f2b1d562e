"""``rcnn demo``: its verdict without a training, and in slow tests with one of each detector."""

import pytest

from detection.commands import demo
from detection.commands.main import main


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ("val/bbox/AP,val/bbox/AP50\n0.6,0.9\n", 0, "box AP 60.0 (AP50 90.0), "),
        ("val/bbox/AP,val/bbox/AP50\n0.3,0.5\n", 1, "FAILED, AP50 below 80.0: box AP 30.0 (AP50 50.0), "),
        (
            "val/bbox/AP,val/bbox/AP50,val/segm/AP,val/segm/AP50\n0.6,0.9,0.3,0.7\n",
            1,
            "FAILED, AP50 below 80.0: box AP 60.0 (AP50 90.0), mask AP 30.0 (AP50 70.0), ",
        ),
        (
            "val/bbox/AP,val/bbox/AP50,val/keypoints/AP,val/keypoints/AP50\n0.6,0.9,0.3,0.6\n",
            0,
            "box AP 60.0 (AP50 90.0), keypoint AP 30.0 (AP50 60.0), ",
        ),
        (
            "val/bbox/AP,val/bbox/AP50,val/keypoints/AP,val/keypoints/AP50\n0.6,0.9,0.3,0.4\n",
            1,
            "FAILED, AP50 below 50.0: box AP 60.0 (AP50 90.0), keypoint AP 30.0 (AP50 40.0), ",
        ),
        ("val/semantic/mIoU\n0.93\n", 0, "mIoU 93.0, "),
        ("val/semantic/mIoU\n0.6\n", 1, "FAILED, mIoU below 90.0: mIoU 60.0, "),
        (
            "val/bbox/AP,val/bbox/AP50,val/semantic/mIoU,val/panoptic/PQ\n0.6,0.9,0.5,0.7\n",
            0,
            "box AP 60.0 (AP50 90.0), mIoU 50.0, PQ 70.0, ",
        ),
    ],
)
def test_the_verdict_is_of_what_the_detector_finds(tmp_path, monkeypatch, capsys, row, code, said):
    def train(config, folder, switches):
        assert config == "demo_fcos"
        (folder / "run").mkdir()
        (folder / "run" / "val.csv").write_text(row)

    monkeypatch.setattr(demo, "_train", train)
    monkeypatch.setattr("detection.shapes_demo.write_data", lambda folder: None)
    monkeypatch.setattr("detection.shapes_demo.write_pictures", lambda *_: None)
    assert main(["demo", "--config", "demo_fcos", "--output", str(tmp_path)]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(said)


def test_an_unknown_config_is_named_before_anything_is_drawn(tmp_path, capsys):
    assert main(["demo", "--config", "demo_fcoss", "--output", str(tmp_path / "out")]) != 0
    assert "demo_fcos" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["demo", "demo_retinanet", "demo_fcos", "demo_semantic", "demo_panoptic"])
def test_it_learns(tmp_path, config):
    assert main(["demo", "--config", config, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "predictions.jpg").is_file()
