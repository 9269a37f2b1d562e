"""The end of a training: write the files of its folder that need the results.

A run never fails because one of these files cannot be written: it prints a warning with the reason.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from backbones.classifiers import Classifier
from backbones.simsiam import SimSiam
from detection.checkpoint_files import replacing
from detection.classifier_files import (
    classifier_file,
    export_pretrained,
    load_classifier,
    pretrained_file,
    save_classifier,
)
from detection.convert.export import save_safetensors
from detection.convert.pretrained import load_pretrained
from detection.convert.run_folder import CHECKPOINTS, MODEL
from detection.curves import plot, read_run
from detection.data.errors import first_line
from detection.documents import read_json
from detection.engine import summary
from detection.engine.best_detections import BestDetections
from detection.engine.classify.best_classes import BestClasses
from detection.engine.data_of import data_of
from detection.engine.errors import StoppedError, user_message
from detection.engine.run_record import NAME as RECORD
from detection.engine.run_record import RunRecord
from detection.engine.startup import Signalled
from detection.engine.trackers import Trackers
from detection.foreign import printable, shown
from detection.models.one_stage import OneStage

REPORT = "report.html"
QUICK = 50_000
"""Most detections for which an interrupted run writes a report: a cluster may soon kill the process."""

WriteReport = Callable[[Path, Any, Trainer], None]
"""Writes the report to a path, from what the callback of the best validation has kept."""


class Closing(Callback):
    """Write ``run.json``, ``summary.md``, ``model.safetensors``, the curves and the report at the end, on rank 0.

    An interrupted run gets the same files. A failed run gets only ``run.json`` and ``summary.md``.

    Args:
        best: callback that has the metrics of the best validation.
        record: callback that writes ``run.json``.
        trackers: callback that sends the files to the trackers.
        detections: detections of the best validation; None: no report.
        write_report: function that writes the report from the detections.
        curves: write the curves.
    """

    def __init__(
        self,
        best: summary.Best,
        record: RunRecord,
        trackers: Trackers,
        detections: BestDetections | BestClasses | None = None,
        write_report: WriteReport | None = None,
        curves: bool = True,
    ) -> None:
        self._best, self._record, self._trackers = best, record, trackers
        self._detections, self._write_report = detections, write_report
        self._curves = curves
        self._folder: Path | None = None
        self._model = ""

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if folder is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._folder, self._model = Path(folder), described(module)
        if names := [shown(name, None) for name in data_of(trainer).categories.names]:
            self._attempt("classes.txt", lambda path: _write(path, "\n".join([*names, ""])))

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close(trainer, module, "finished", None)
        trainer.strategy.barrier()  # a launcher may end rank 0 once the others have left

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, StoppedError | Signalled | KeyboardInterrupt)
        reason = user_message(exception)[0] or type(exception).__name__
        self._close(trainer, module, "interrupted" if stopped else "failed", reason)
        if isinstance(exception, StoppedError):  # of other errors, the other ranks may know nothing
            trainer.strategy.barrier()

    def _close(self, trainer: Trainer, module: LightningModule, result: str, reason: str | None) -> None:
        if self._folder is None:
            return
        folder, best = self._folder, self._best.found
        last = {"epoch": trainer.current_epoch + (result != "finished"), "step": trainer.global_step}
        self._attempt(RECORD, lambda _: self._record.finish(result, reason, best, last))
        if result != "failed":
            self._attempt(MODEL, lambda path: export(folder, path, module))
            if self._curves:
                self._attempt("curves.png", lambda path: plot({path.parent.name: read_run(folder)}, path))
            if self._detections is not None:
                self._report(trainer, module, self._detections, result == "interrupted")
        commands: dict[str, str] = module.next_commands(folder)  # type: ignore[operator]  # of a ResumableModule
        self._attempt("summary.md", lambda path: _write(path, self._page(folder, commands)))
        self._trackers.finish(trainer, result == "failed")
        if result != "failed":
            module.print("\n".join(summary.last_lines(result, best, folder, commands)))

    def _report(self, trainer: Trainer, module: LightningModule, detections: Any, interrupted: bool) -> None:
        """Write the report, unless the existing one is of a better validation or an interrupted run has no time."""
        assert self._folder is not None
        folder = self._folder
        is_best = detections.place.get("step") == self._best.found.get("step")
        if self._write_report is None or not detections.place or (not is_best and (folder / REPORT).is_file()):
            return
        if interrupted and detections.count > QUICK:
            module.print(f"{folder / REPORT}: not written, as the run was stopped; `rcnn evaluate` makes a report")
            return
        write = self._write_report
        self._attempt(REPORT, lambda path: write(path, detections, trainer))

    def _page(self, folder: Path, commands: dict[str, str]) -> str:
        return summary.page(read_json(folder / RECORD), self._model, folder, commands)

    def _attempt(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file, or print a warning with the reason why it was not written."""
        assert self._folder is not None
        try:
            write(self._folder / name)
        except Exception as error:
            line = f"warning: {self._folder / name} was not written: {first_line(error)[:300]}"
            print(printable(line), file=sys.stderr)


def export(folder: Path, path: Path, module: LightningModule) -> None:
    """Write ``model.safetensors`` from the best checkpoint, or from the last one if there is no best one.

    Write nothing if there is no checkpoint, or if the file is newer than the checkpoint.
    """
    found = [folder / "checkpoints" / name for name in CHECKPOINTS]
    source = next((one for one in found if one.is_file()), None)
    if source is None:
        return
    if path.is_file() and path.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return  # an earlier start wrote it, and there is no better checkpoint
    if classifier_file(source) is not None:
        return save_classifier(load_classifier(source), path)
    if pretrained_file(source) is not None:
        return export_pretrained(source, path)
    trusted: str = module.configs["backbone"].name  # type: ignore[union-attr,assignment,index]
    save_safetensors(load_pretrained(str(source), trusted).build(), path)


def described(module: LightningModule) -> str:
    """Return a description of the model such as ``MaskRCNN with resnet50, 44.4 M parameters``."""
    model: Any = module.model
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    if isinstance(model, Classifier):
        return f"Classifier {shown(model.config.name)}, {parameters:.1f} M parameters"
    if isinstance(model, SimSiam):
        return f"SimSiam with {shown(model.config.name)}, {parameters:.1f} M parameters"
    name = (
        model.head.kind
        if isinstance(model, OneStage)
        else next(kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("detection.models"))
    )
    return f"{name} with {shown(module.configs['backbone'].name)}, {parameters:.1f} M parameters"  # type: ignore[union-attr,index]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
