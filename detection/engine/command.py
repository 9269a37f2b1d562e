"""Train and evaluate Faster R-CNN and Mask R-CNN, and image classifiers.

The toolkit's LightningCLI: it defines the options, and builds the trainer, model and data of a run from them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import lightning.pytorch
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from detection.checkpoint_files import outline_checkpoint
from detection.engine.checkpoint_io import AtomicCheckpointIO
from detection.engine.classify.run_report import write_report as write_classes
from detection.engine.closing import WriteReport
from detection.engine.console import Console, Log
from detection.engine.datamodule import CocoDataModule
from detection.engine.early_options import complete
from detection.engine.ending import end_at_once
from detection.engine.errors import InputError, user_input
from detection.engine.find_rate import prepare
from detection.engine.folder import keep_checkpoints_in, loggers, run_folder
from detection.engine.kinds import Classifiers, Detectors, Kind, kind_of
from detection.engine.lightning_mends.checkpoints import restoring_error
from detection.engine.lightning_mends.noise import silence
from detection.engine.parser import STRICT, ConfigFile, Parser, given_configs
from detection.engine.precision import best_precision, precision_of
from detection.engine.ranks import watch_ranks
from detection.engine.run import (
    RunConfig,
    callbacks,
    lock_folder,
    refuse_another_run,
)
from detection.engine.run_report import write_report
from detection.engine.schedule import limits
from detection.engine.sharding import refuse_with_sharding, strategy_of
from detection.engine.shortcuts import add_shortcuts
from detection.engine.startup import is_first_rank
from detection.engine.trackers import check_trackers
from detection.engine.trainer import Trainer
from detection.engine.unvalidated import Unvalidated, check_unvalidated
from detection.home import settle_home
from detection.memory import keep_freed_memory

CLIP = 100.0
"""Default of ``trainer.gradient_clip_val``, the norm to which gradients are clipped; null: no clipping. Only faulty
steps reach it: norms were below 45 in trainings on cell nuclei, and below 78 in the first steps with 80 classes."""


class SavedConfig(SaveConfigCallback):
    """Write ``config.yaml`` of a training, after the checks of the checkpoint that it resumes from."""

    def setup(self, trainer: lightning.pytorch.Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_fit_start(self, trainer: lightning.pytorch.Trainer, pl_module: LightningModule) -> None:
        if not self.config.run.find_lr:  # which trains nothing
            super().setup(trainer, pl_module, "fit")


class Command(LightningCLI):
    """Run ``fit``, ``validate``, ``test`` or ``predict``."""

    def __init__(self, console: Console, kind: Kind | None = None) -> None:
        self._console, self.kind = console, kind or Detectors()
        # Otherwise albumentations looks for its latest version on a server when data.augment names a transform.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        self._lock: IO[str] | None = None
        silence()
        watch_ranks()
        super().__init__(
            self.kind.module,
            self.kind.data,
            trainer_class=Trainer,
            parser_class=Parser,
            parser_kwargs=dict.fromkeys(self.subcommands(), STRICT)
            | STRICT
            | {"description": str(__doc__).splitlines()[0]},
            save_config_callback=self._saved_config,  # type: ignore[arg-type]  # called with the arguments of a class
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={
                "use_distributed_sampler": False,
                "log_every_n_steps": 20,
                "num_sanity_val_steps": 1,
                "gradient_clip_val": CLIP,
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def _parse_ckpt_path(self) -> None:
        """Ignore settings in a checkpoint; Lightning would replace those of the config by its ``hyper_parameters``."""

    def _saved_config(self, parser: LightningArgumentParser, config: Any, **options: Any) -> SavedConfig:
        """Return the callback that saves the config: with the initial weights, without the checkpoint to resume."""
        config = config.clone()
        if self.subcommand == "fit":
            config.ckpt_path = None
            for name, weights in zip(self.kind.weights, self._weights, strict=True):
                config[name] = weights
        return SavedConfig(parser, config, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the subcommand on the command line, or all: building the parser of each takes half a second."""
        every = LightningCLI.subcommands()
        called = sys.argv[1] if len(sys.argv) > 1 else ""
        return {called: every[called]} if called in every else every

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return Lightning's parser with the toolkit's option ``--config``."""
        kwargs.setdefault("dump_header", None)
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="A config file, or a shipped one by its name.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run and the short options, and link options whose values follow from others."""
        add_shortcuts(parser)
        parser.add_class_arguments(RunConfig, "run")
        self.kind.link(parser)

    def before_instantiate_classes(self) -> None:
        """Reject invalid combinations, and set missing values, so that the saved config has them."""
        config = self.config[self.subcommand]
        settle_home(config)
        with user_input():
            self.kind.check(config, trains=self.subcommand == "fit")
        if config.run.name is None:
            config.run.name = given_configs[0].info.name.rsplit("/", 1)[-1] if given_configs else "default"
        accelerator = config.trainer.accelerator if isinstance(config.trainer.accelerator, str) else ""
        if config.trainer.precision is None:
            config.trainer.precision = self._precision(accelerator)
        computes_here = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
        if computes_here and self.subcommand != "fit":
            keep_freed_memory()
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # the module prints a shorter table
        if self.subcommand == "predict" and config.return_predictions is None:
            config.return_predictions = False  # they are in the files
        if self.subcommand == "fit" and config.run.folder and not config.get("ckpt_path"):
            refuse_another_run(config.run.folder)
        if self.subcommand == "fit" and config.run.find_lr:
            prepare(config)
        self._weights = [config[name] for name in self.kind.weights]
        if config.get("ckpt_path"):
            for name in self.kind.weights:
                config[name] = None  # they come from the checkpoint
        elif self.subcommand != "fit" and self._weights[0] is None:
            option = f"--{self.kind.weights[0]}"
            raise InputError(f"{self.subcommand} needs a {self.kind.noun}: --ckpt_path CHECKPOINT, or {option}")

    def _precision(self, accelerator: str) -> str:
        """Return the precision of the run that is resumed, or for a new run the best one of this machine."""
        chosen, kept = best_precision(accelerator), None
        path = self.config[self.subcommand].get("ckpt_path")
        if self.subcommand == "fit" and path and Path(path).is_file():
            with user_input():
                kept = precision_of(outline_checkpoint(path))
        if kept not in (None, chosen.precision):
            rank_zero_info(
                f"Precision {kept}, as in the run that is resumed; a new run on this machine would use "
                f"{chosen.precision} ({chosen.reason})"
            )
        elif self.subcommand == "fit":
            rank_zero_info(f"Precision {chosen.precision}: {chosen.reason}")
        return kept or chosen.precision

    def _run_subcommand(self, subcommand: str) -> None:
        if isinstance(self.datamodule, CocoDataModule):
            self.datamodule.detector = self.config[subcommand].get("ckpt_path") or self._weights[0]
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            end_at_once(self.trainer, error)
            if line := restoring_error(error, str(self.config[subcommand].get("ckpt_path"))):
                raise line from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> lightning.pytorch.Trainer:
        """Return the trainer with the toolkit's loggers, callbacks and checkpoints, and the end of the schedule."""
        config = self.config_init[self.subcommand]
        given = config.trainer
        place = run_folder(config.run.folder, given.default_root_dir or "runs", config.run.name)
        kwargs["default_root_dir"] = place
        if self.subcommand == "fit":
            if given.max_epochs is None and given.max_steps == -1:
                kwargs |= limits(config.model.schedule_config, config.data.config.batch_size)
            trackers = {
                **dict.fromkeys(config.run.trackers),
                **({"tensorboard": None} if config.run.tensorboard else {}),
            }
            check_trackers(trackers)
            kwargs["logger"] = loggers(given.logger, place, list(trackers), config.run.name)
        else:
            kwargs["logger"] = given.logger or False
        if given.enable_model_summary is None:
            kwargs["enable_model_summary"] = False  # the module prints a line
        kwargs["strategy"] = strategy_of(given.strategy)
        refuse_with_sharding(kwargs["strategy"], self.config[self.subcommand])
        users = given.callbacks or []
        users = users if isinstance(users, list) else [users]
        save = self.subcommand == "fit" and given.enable_checkpointing is not False
        if not save:
            kwargs["enable_checkpointing"] = False
        with user_input():
            bar, kind = given.enable_progress_bar is not False, self.kind
            report: WriteReport = write_classes if isinstance(kind, Classifiers) else write_report
            ours = callbacks(config.run, users, bar, save, report, kind.monitor(config), kind.parts)
        if self.subcommand == "fit":
            own = self.kind.prepare(self.config["fit"], config, users)
            if why := self.kind.why_unvalidated(self.config["fit"]):
                check_unvalidated(why, config.run.early_stopping, users)
                kwargs["limit_val_batches"] = 0
                ours.insert(-1, Unvalidated(why))  # the last one closes the run
            ours[-1:-1] = own
            ours.insert(0, Log(self._console))  # first, so that it logs the output of the others
        kwargs["callbacks"] = [*users, *ours]
        keep_checkpoints_in(place, kwargs["callbacks"])
        plugins = given.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            ours_io: CheckpointIO = AtomicCheckpointIO()
            kwargs["plugins"] = [*plugins, AsyncCheckpointIO(ours_io) if config.run.save_in_background else ours_io]
        try:
            trainer: Trainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]  # of trainer_class
        except (ValueError, MisconfigurationException) as error:
            raise InputError(f"trainer: {error}") from error
        trainer.run_folder = place
        # Only a trainer knows its rank. Its loggers open their files when it begins.
        if self.subcommand == "fit" and trainer.is_global_zero and config.run.folder is not None:
            self._lock = lock_folder(config.run.folder)
        return trainer


def run(arguments: Sequence[str]) -> Command:
    """Run a command line such as ``fit --config demo``.

    Returns:
        The finished command, with the trainer.

    Raises:
        InputError: a setting or file is wrong; the message is one line for the user.
    """
    before, console = sys.argv, Console()
    try:
        # Lightning reads sys.argv, also to start the processes of other devices.
        sys.argv = [before[0], *complete(list(arguments))]
        if sys.argv[1:2] == ["fit"] and is_first_rank():
            console.open()
        return Command(console, kind_of(sys.argv[1:]))
    finally:
        console.close()
        sys.argv = before
