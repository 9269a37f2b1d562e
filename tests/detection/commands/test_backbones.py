import json

import pytest

from tests.support.commands import backbones as main


def test_list_finds_names_by_a_part(capsys):
    main(["list", "VGG1"])
    names = capsys.readouterr().out.split()
    assert {"vgg11", "vgg19_bn"} <= set(names)
    assert all("vgg1" in name for name in names)


@pytest.mark.parametrize(
    "arguments", [["list", "resnett50"], ["show", "resnett50"], ["benchmark", "--names", "resnett50"]]
)
def test_an_unknown_name_is_one_line_with_the_nearest(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "resnet50" in error
    assert error.count("\n") == 1


def test_gradients_writes_a_picture_and_its_numbers(tmp_path, capsys):
    arguments = ["--steps", "2", "--every", "1", "--width", "4", "--side", "24", "--pictures", "16", "--batch", "4"]
    main(["gradients", "--depths", "18", *arguments, "--output", str(tmp_path / "r")])
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 2 * 2
    assert "plain18: training error" in capsys.readouterr().out


@pytest.mark.slow
def test_benchmark_measures_each_in_its_own_process(capsys):
    options = ["--side", "96", "--rounds", "1", "--threads", "1"]
    main(["benchmark", "--names", "resnet10", "mobilenet_v3_small", *options])
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["resnet10", "mobilenet_v3_small"]
    assert all(float(cell) > 0 for row in rows for cell in row.split("|")[2:7])
    assert "rcnn backbones benchmark --names resnet10 mobilenet_v3_small --side 96" in out
    main(["measure", "resnet10", *options])
    assert json.loads(capsys.readouterr().out)["memory"] > 0
