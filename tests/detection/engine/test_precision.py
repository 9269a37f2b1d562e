"""bfloat16 where it pays, and nowhere else."""

from types import MappingProxyType

import pytest
import torch
import yaml

from detection.engine import precision
from detection.engine.precision import PAYS, best_precision, bf16_gain


@pytest.fixture
def processor(monkeypatch):
    """Pretend to have a processor with the given instructions and no GPU."""

    def has(*instructions: str, gain: float = 2.0) -> None:
        monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
        known = MappingProxyType({"avx2": True, **dict.fromkeys(instructions, True)})
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return has


def test_a_processor_computes_in_bf16_only_with_instructions_for_it(processor):
    processor()
    assert best_precision("cpu") == best_precision("auto") == "32-true"
    processor("avx512_f", "avx512_bw")  # wide registers alone imitate it
    assert best_precision("cpu") == "32-true"
    for instructions in ("avx512_bf16", "amx_bf16", "sve_bf16"):
        processor(instructions)
        assert best_precision("cpu") == best_precision("auto") == "bf16-mixed"
        processor(instructions, gain=PAYS - 0.1)  # Sapphire Rapids without AMX has 0.6 to 0.8
        assert best_precision("cpu") == "32-true"


def test_the_gain_is_measured():
    gain = bf16_gain()
    assert 0.01 < gain < 100
    assert bf16_gain() == gain  # once


@pytest.mark.parametrize(("has", "word"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_decides_where_there_is_one(monkeypatch, has, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert {best_precision(name) for name in ("gpu", "cuda", "auto")} == {word}


def test_other_accelerators_stay_in_float32(processor):
    processor("amx_bf16")
    assert best_precision("mps") == best_precision("") == "32-true"


@pytest.mark.parametrize(("given", "kept"), [((), "bf16-mixed"), (("--trainer.precision", "32"), "32")])
def test_a_run_takes_it_unless_told_otherwise_and_keeps_it(processor, tiny_config, tmp_path, monkeypatch, given, kept):
    from detection.cli import main

    processor("avx512_bf16")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(tiny_config.read_text())
    del config["trainer"]["precision"]
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", "open.yaml", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", *given]
    assert main(["fit", *options, "--run.folder", "out"]) == 0
    assert str(yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["trainer"]["precision"]) == kept
