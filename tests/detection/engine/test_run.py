import errno
import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from detection.engine.early_options import complete
from detection.engine.errors import InputError
from detection.engine.pictures import Pictures
from detection.engine.run import (
    RunConfig,
    callbacks,
    checkpoint_in,
    lock_folder,
    refuse_another_run,
)
from detection.engine.terminal import Lines

if os.name == "posix":
    import fcntl

ROOT = Path(__file__).resolve().parents[3]


def of(kind, found):
    return [callback for callback in found if isinstance(callback, kind)]


def test_a_run_goes_on_from_its_last_checkpoint_or_from_the_best(tmp_path):
    """Killed at its first evaluation, a run may have the best one alone."""
    assert checkpoint_in(tmp_path) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".last.ckpt.12.partial").touch()
    assert checkpoint_in(tmp_path) is None
    refuse_another_run(tmp_path)
    (folder / "best.ckpt").touch()
    assert checkpoint_in(tmp_path) == folder / "best.ckpt"
    (folder / "last.ckpt").touch()
    assert checkpoint_in(tmp_path) == folder / "last.ckpt"
    with pytest.raises(InputError, match=r"last\.ckpt: continue with --resume auto, or use another folder"):
        refuse_another_run(tmp_path)


def test_a_checkpoint_that_cannot_be_reached_is_no_reason_to_begin_anew(tmp_path, monkeypatch, capsys):
    """A disk that does not answer, a folder without permission: an error, for --resume auto, too."""

    def stat(self, **_):
        raise OSError(116, "Stale file handle", str(self))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoint_in(tmp_path)
    with pytest.raises(InputError, match="Stale file handle"):
        complete(["fit", "--run.folder", str(tmp_path), "--resume", "auto"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no such locks")
def test_two_processes_do_not_train_into_one_folder(tmp_path):
    script = (
        "import sys; from detection.engine.run import lock_folder; lock = lock_folder(sys.argv[1])\n"
        "print('held'); input()"
    )
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **options) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run is training into it; use another folder"):
            lock_folder(tmp_path)
        other.kill()
    assert lock_folder(tmp_path) is not None


@pytest.mark.skipif(os.name != "posix", reason="no such locks")
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EAGAIN])
def test_a_lock_that_another_process_has_stops_the_run_whatever_the_system_calls_it(tmp_path, monkeypatch, number):
    """POSIX lets a system answer EACCES or EAGAIN; the first is a PermissionError, the second a BlockingIOError."""
    monkeypatch.setattr(fcntl, "lockf", raises(number))
    with pytest.raises(InputError, match="another run is training into it; use another folder"):
        lock_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="no such locks")
@pytest.mark.parametrize(
    "number", [errno.ENOLCK, *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.EINVAL, errno.EOPNOTSUPP))]
)
def test_a_file_system_without_locks_is_trained_into(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "lockf", raises(number))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)  # the file is closed
        assert lock_folder(tmp_path) is None
        gc.collect()


def raises(number):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    return lockf


def test_a_folder_that_cannot_be_one_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        lock_folder(tmp_path / "file")


def test_the_best_checkpoint_has_the_highest_ap():
    (best,) = of(ModelCheckpoint, callbacks(RunConfig()))
    assert (best.monitor, best.mode, best.filename) == ("val/AP", "max", "best")


def test_early_stopping_and_pictures_by_choice():
    assert not of(EarlyStopping, callbacks(RunConfig()))
    found = callbacks(RunConfig(early_stopping=5, pictures=0))
    assert of(EarlyStopping, found)[0].patience == 5
    assert not of(Pictures, found)


def test_the_users_progress_bar_replaces_ours():
    assert not of(Lines, callbacks(RunConfig(), [TQDMProgressBar()]))
    assert not of(Lines, callbacks(RunConfig(), bar=False))
