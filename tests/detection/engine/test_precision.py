"""bfloat16 only on machines where it is faster; equal runs choose the same, and a resumed run keeps its precision."""

from types import MappingProxyType

import pytest
import torch
import yaml

from backbones.fast import cpu
from detection.engine.errors import InputError
from detection.engine.precision import best_precision, for_cpu, precision_of


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Pretend to have a CPU of the given vendor and instructions, and no GPU."""

    def has(vendor: str, *instructions: str) -> None:
        known = MappingProxyType({"avx2": True, **dict.fromkeys(instructions, True)})
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 6\n")
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return has


ZEN_3 = ("AuthenticAMD", ())
ZEN_4 = ("AuthenticAMD", ("avx512_f", "avx512_bf16"))
SKYLAKE = ("GenuineIntel", ("avx512_f", "avx512_bw"))
EMERALD_RAPIDS = ("GenuineIntel", ("avx512_f", "avx512_bf16", "amx_bf16"))
AMX_HIDDEN = ("GenuineIntel", ("avx512_f", "avx512_bf16"))
GRAVITON_3 = ("", ("sve", "sve_bf16"))


@pytest.mark.parametrize(
    ("machine", "precision", "why"),
    [
        (ZEN_3, "32-true", "no bfloat16 instructions"),
        (ZEN_4, "bf16-mixed", "AMD CPU has AVX512-BF16"),
        (SKYLAKE, "32-true", "no bfloat16 instructions"),  # wide registers alone imitate it
        (EMERALD_RAPIDS, "bf16-mixed", "AMX"),
        (AMX_HIDDEN, "32-true", "without AMX is slower"),
        (GRAVITON_3, "32-true", r"there are no measurements .*sve_bf16.*--trainer.precision bf16-mixed"),
        (("HygonGenuine", ("avx512_bf16",)), "32-true", "there are no measurements .*avx512_bf16"),
    ],
)
def test_instructions_and_vendor_decide(processor, machine, precision, why):
    vendor, instructions = machine
    processor(vendor, *instructions)
    for accelerator in ("cpu", "auto"):
        assert best_precision(accelerator).precision == precision
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(best_precision("cpu").reason)


def test_no_clock_has_a_say(processor, monkeypatch):
    """A busy machine gives the answer of a quiet one."""

    def refuse(*_arguments):
        raise AssertionError("somebody looked at the clock")

    processor(*[EMERALD_RAPIDS[0], *EMERALD_RAPIDS[1]])
    for name in ("perf_counter", "monotonic", "time", "process_time"):
        monkeypatch.setattr(f"time.{name}", refuse)
    assert {best_precision("cpu").precision for _ in range(100)} == {"bf16-mixed"}


@pytest.mark.parametrize(
    ("limit", "intel", "amd"),
    [
        ("", "bf16-mixed", "bf16-mixed"),
        ("avx512_core_amx", "bf16-mixed", "bf16-mixed"),
        ("AVX512_CORE_BF16", "32-true", "bf16-mixed"),
        ("AVX512_CORE_VNNI", "32-true", "32-true"),
        ("AVX2", "32-true", "32-true"),
    ],
)
def test_instructions_that_a_user_hides_from_onednn_do_not_count(processor, monkeypatch, limit, intel, amd):
    for (vendor, instructions), expected in ((EMERALD_RAPIDS, intel), (ZEN_4, amd)):
        processor(vendor, *instructions)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert best_precision("cpu").precision == expected


def test_this_machine_says_why():
    precision, reason = best_precision("cpu")
    assert precision in ("bf16-mixed", "32-true")
    assert len(reason) > 10
    assert for_cpu({}, "").precision == "32-true"


@pytest.mark.parametrize(("has", "word"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_decides_where_there_is_one(monkeypatch, has, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert {best_precision(name).precision for name in ("gpu", "cuda", "auto")} == {word}


def test_other_accelerators_stay_in_float32(processor):
    processor("GenuineIntel", "amx_bf16")
    assert best_precision("mps").precision == best_precision("").precision == "32-true"


@pytest.fixture
def train(processor, tiny_config, tmp_path, monkeypatch):
    """Train with the precision left open, on a CPU with the given instructions; the exit code."""
    from detection.cli import main

    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(tiny_config.read_text())
    del config["trainer"]["precision"]
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(config))

    def call(vendor: str, instructions: tuple[str, ...], *options: str) -> int:
        processor(vendor, *instructions)
        given = ["--config", "open.yaml", "--trainer.limit_val_batches", "0", "--run.folder", "out", *options]
        return main(["fit", *given])

    return call


def saved(tmp_path):
    checkpoint = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    return checkpoint["precision"], str(config["trainer"]["precision"]), checkpoint["global_step"]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "kept"), [((), "bf16-mixed"), (("--trainer.precision", "32-true"), "32-true")])
def test_a_run_takes_it_unless_told_otherwise_and_keeps_it(train, tmp_path, given, kept):
    assert train(*ZEN_4, "--trainer.max_steps", "1", *given) == 0
    assert saved(tmp_path) == (kept, kept, 1)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_precision_on_another_machine(train, tmp_path, caplog):
    assert train(*ZEN_3, "--trainer.max_steps", "1") == 0
    assert train(*ZEN_4, "--trainer.max_steps", "2", "--resume", "auto") == 0
    assert saved(tmp_path) == ("32-true", "32-true", 2)
    told = "Precision 32-true, as in the run that is resumed; a new run on this machine would use bf16-mixed"
    assert any(told in record.getMessage() for record in caplog.records)


@pytest.mark.slow
def test_a_resumed_run_follows_the_user_and_says_what_was_before(train, tmp_path, capsys):
    assert train(*ZEN_3, "--trainer.max_steps", "1") == 0
    assert train(*ZEN_3, "--trainer.max_steps", "2", "--resume", "auto", "--trainer.precision", "bf16-mixed") == 0
    assert saved(tmp_path) == ("bf16-mixed", "bf16-mixed", 2)
    assert "Precision bf16-mixed, as given; the run that is resumed was trained in 32-true so far" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("found", ["float99", 32, ["32-true"], torch.zeros(3)])
def test_a_checkpoint_that_names_no_precision_is_rejected_in_a_line(found):
    with pytest.raises(InputError, match="which is none of 32-true, bf16-mixed") as error:
        precision_of({"precision": found})
    assert len(str(error.value)) < 200


def test_a_checkpoint_without_the_entry_leaves_it_open():
    assert precision_of({}) is None
