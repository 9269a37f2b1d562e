import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from detection import shadowed
from detection.cli import main
from detection.commands import main as commands
from detection.engine.early_options import complete
from detection.engine.errors import InputError
from detection.shadowed import hidden_by_another


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config", "a.yaml"], ["fit", "--config", "a.yaml"]),
        (["fit", "--config", "a.yaml"], ["fit", "--config", "a.yaml"]),
        (["validate"], ["validate"]),
        (["--help"], ["--help"]),
        ([], []),
        (["validat"], ["validat"]),
        (["fit", "--ckpt_path", "last"], ["fit", "--ckpt_path", "last"]),
    ],
)
def test_fit_goes_without_saying(given, expected):
    assert complete(given) == expected


@pytest.fixture
def checkpoint(tmp_path):
    from backbones import BackboneConfig
    from detection.checkpoint import save_model
    from detection.models.build import build_detector
    from detection.models.fpn import FPNConfig

    configs = {"backbone": BackboneConfig("resnet10", width=8), "fpn": FPNConfig(channels=8)}
    save_model(build_detector(2, **configs), tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")


def test_a_checkpoints_settings_come_between_configs_and_options(checkpoint):
    given = ["validate", "--config", "a", "-c", "b", "--model.fpn.channels", "4", f"--ckpt_path={checkpoint}"]
    found = complete(given)
    assert found[:5] == given[:5]
    assert found[5].startswith("--config={")
    assert '"backbone": {"name": "resnet10"' in found[5]
    assert '"mask_head": null' in found[5]
    assert found[6:] == given[5:]
    assert complete(found) == found  # other processes of the run get the completed line


def test_resuming_keeps_the_config(checkpoint):
    assert complete(["fit", "--ckpt_path", checkpoint]) == ["fit", "--ckpt_path", checkpoint]


def test_resuming_a_run_that_began_from_weights_keeps_their_settings(checkpoint):
    given = ["fit", "--config", "a", "--model.weights", checkpoint]
    begun, resumed = complete(given), complete([*given, "--resume", checkpoint])
    for found in (begun, resumed):
        assert found[3].startswith("--config={")
        assert '"backbone": {"name": "resnet10"' in found[3]
    assert resumed[-2:] == ["--resume", checkpoint]


def test_an_unreadable_checkpoint_is_told_at_once(tmp_path):
    (tmp_path / "a.ckpt").write_text("<html>")
    with pytest.raises(InputError, match="truncated"):
        complete(["fit", "--ckpt_path", str(tmp_path / "a.ckpt")])


def test_our_packages_are_ours():
    assert hidden_by_another() is None


@pytest.mark.parametrize("name", ["detection", "backbones"])
def test_another_package_of_the_same_name_is_told(monkeypatch, capsys, name):
    def find(module):
        return ModuleSpec(module, None, origin=f"/elsewhere/{module}/__init__.py") if module == name else real(module)

    real = shadowed.find_spec
    monkeypatch.setattr(shadowed, "find_spec", find)
    assert main(["fit"]) == 2
    assert f"hidden by /elsewhere/{name}/__init__.py" in capsys.readouterr().err


def test_a_wrong_subcommand(capsys):
    assert main(["validat"]) == 2
    assert "invalid choice: 'validat'" in capsys.readouterr().err


def test_a_program_leaves_the_group_of_processes_it_was_in(monkeypatch):
    import torch.distributed as dist

    def joins() -> int:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return 143

    monkeypatch.setattr(commands, "restart_with_glibc_setting", lambda: None)
    monkeypatch.setattr(commands, "main", lambda given: joins())
    assert commands.command("train") == 143
    assert not dist.is_initialized()


@pytest.mark.slow
def test_help_explains_the_settings():
    found = subprocess.run(
        [sys.executable, "-m", "detection", "train", "--help-all"], capture_output=True, text=True, check=True
    )
    text = " ".join(found.stdout.split())
    assert "Smallest score of a detection; 0.05 is usual for COCO." in text
    assert "Images per optimizer step, the total of all devices and accumulated batches." in text


@pytest.mark.slow
def test_importing_the_package_is_light():
    code = "import sys, detection; assert not {'lightning', 'torch', 'albumentations'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_resuming_finds_the_folder_in_a_config(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"run: {{folder: {tmp_path / 'run'}}}\n")
    given = ["fit", "--config", str(tmp_path / "mine.yaml"), "--resume", "auto"]
    assert complete(given) == given[:-2]
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    with pytest.raises(InputError, match=r"last\.ckpt"):
        complete(given)
