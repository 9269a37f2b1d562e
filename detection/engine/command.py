"""Train and evaluate Faster R-CNN and Mask R-CNN.

The toolkit's LightningCLI: which options there are, and what a run is put together from.
"""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import IO, Any, NoReturn

import lightning.pytorch
import torch
from jsonargparse import ActionConfigFile, set_loader, set_parsing_settings
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from detection.checkpoint import outline_checkpoint
from detection.documents import DocumentError, read_yaml
from detection.engine.callbacks import FirstStep
from detection.engine.checkpoint_io import AtomicCheckpointIO
from detection.engine.checks import check_combinations, check_random_start
from detection.engine.configs import explain, find_config, load_yaml
from detection.engine.datamodule import CocoDataModule
from detection.engine.ending import end_at_once
from detection.engine.errors import InputError, user_input
from detection.engine.folder import keep_checkpoints_in, loggers, run_folder
from detection.engine.module import DetectionModule
from detection.engine.naming import settle_names
from detection.engine.precision import best_precision, precision_of
from detection.engine.quiet import quieten
from detection.engine.ranks import watch_ranks
from detection.engine.resuming import broken
from detection.engine.run import (
    RunConfig,
    callbacks,
    hold,
    keep_metrics,
    put_back,
    refuse_another_run,
)
from detection.engine.schedule import limits
from detection.engine.sharding import chosen, refuse_with_sharding
from detection.engine.trainer import Trainer
from detection.engine.unvalidated import Unvalidated, check_unvalidated, why_unvalidated
from detection.home import settle_home
from detection.memory import finest_map, keep_freed_memory

set_parsing_settings(
    docstring_parse_attribute_docstrings=True,
    config_read_mode_fsspec_enabled=False,  # a config is code: none from the network
    validate_subclass_spec_in_any=True,  # data.augment: unknown transforms and arguments are errors
    instantiate_subclass_spec_in_any=True,
)
set_loader("strict_yaml", load_yaml, exceptions=(DocumentError,))

QUIET = (
    "does not have many workers",  # the user's choice
    "in eval mode at the start of training",  # frozen stages
    "dataloader is not resumable",  # ours goes on where it was
    "smaller than the logging interval",  # a small data set
    "callbacks used to create the checkpoint",  # evaluation needs none of them
    "does not round-trip",  # tuples in a transform's arguments, saved as lists
    "overridden `transfer_batch_to_device`",  # and it is meant to be used
    "LeafSpec",  # between Lightning and PyTorch
    "The dirpath has changed",  # a run that goes on in a new folder
    "Grad strides do not match",  # 1x1 weights are channels-last and plain at once
    "sync_dist=True)` when logging",  # the first rank has told the others
    "exists and is not empty",  # the folder of a run that goes on; its curve and checkpoints are kept
    "overrides the configure_model callback",  # that does nothing where weights are averaged
)
"""Warnings about what is as it should be."""
CLIP = 100.0
"""Norm to which gradients are clipped; null switches that off. It is for steps that go wrong: trainings on cell nuclei
stayed below 45, the first steps on 80 classes below 78."""
STRICT: dict[str, Any] = {"parser_mode": "strict_yaml"}
SHORT = (
    "Besides: --resume PATH goes on with a run, --resume auto with the one in run.folder if there is one; --init-from "
    "takes the weights of a file or a zoo alone; --trust-code imports the custom backbone that a checkpoint names; "
    "--deterministic seeded gives the same losses twice up to rounding, "
    "strict to the last bit; --debug shows where an error was noticed."
)
"""What :mod:`detection.cli` makes of a command line before it is parsed."""

# Python makes equal unions one, in the order that was written first anywhere; jsonargparse tries them in that order,
# and ``trainer.limit_val_batches 1`` would be 1.0, which is all batches. A union made by ``|`` keeps its order.
Trainer.__init__.__annotations__.update(
    {
        name: int | float | None
        for name, hint in Trainer.__init__.__annotations__.items()
        if name.startswith("limit_") and hint == int | float | None
    }
)

_config_files: list[str] = []
"""Given so far, for error messages: a parser does not know them where it fails."""


class ConfigFile(ActionConfigFile):
    """``--config``: a file, or the name of a shipped config."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if not values.lstrip().startswith("{"):
            try:
                values = find_config(values)
            except FileNotFoundError as error:
                raise InputError(str(error)) from error
            with user_input():
                read_yaml(values)  # its errors name the file
            _config_files.append(str(Path(values).absolute()))  # jsonargparse changes the folder as it reads
        super().__call__(parser, cfg, values, option_string)


class Parser(LightningArgumentParser):
    """Takes no abbreviations, and is brief about mistakes."""

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # argparse has no other way to switch abbreviations off in subcommands.
        return []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [action.dest for action in parser._actions]
        raise InputError(explain(message, options, _config_files))


class SavedConfig(SaveConfigCallback):
    """``config.yaml`` of a training, written once the checkpoint that it goes on from has been found to fit."""

    def setup(self, trainer: lightning.pytorch.Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_fit_start(self, trainer: lightning.pytorch.Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")


class Command(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict``."""

    def __init__(self) -> None:
        _config_files.clear()
        for text in QUIET:
            warnings.filterwarnings("ignore", message=f"(?s).*{re.escape(text)}")
        # Without this albumentations asks a server for its latest version when data.augment names a transform.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        self._lock: IO[str] | None = None
        self._kept_metrics: Path | None = None
        quieten()
        watch_ranks()
        super().__init__(
            DetectionModule,
            CocoDataModule,
            trainer_class=Trainer,
            parser_class=Parser,
            parser_kwargs=dict.fromkeys(self.subcommands(), STRICT | {"epilog": SHORT})
            | STRICT
            | {"description": str(__doc__).splitlines()[0], "epilog": SHORT},
            save_config_callback=self._saved_config,  # type: ignore[arg-type]  # made as one makes a class's
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
        """Take no settings out of a checkpoint; Lightning would put its ``hyper_parameters`` over the config."""

    def _saved_config(self, parser: LightningArgumentParser, config: Any, **options: Any) -> SavedConfig:
        """What begins the run anew: with the weights it began from, not with the checkpoint it went on from."""
        config = config.clone()
        if self.subcommand == "fit":
            config.ckpt_path = None
            config.model.weights, config.model.backbone.weights = self._weights
        return SavedConfig(parser, config, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """All, or the one that is called: each takes half a second to describe."""
        every = LightningCLI.subcommands()
        called = sys.argv[1] if len(sys.argv) > 1 else ""
        return {called: every[called]} if called in every else every

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's, but with our ``--config``."""
        kwargs.setdefault("dump_header", None)
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="A config file, or a shipped one by its name.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's own options, and what follows from others."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("model.compile", "data.few_canvases", compute_fn=bool)
        parser.link_arguments("model.backbone.in_channels", "data.channels")
        parser.link_arguments("model.mask_head", "data.masks", compute_fn=lambda head: head is not None)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed))

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, and fill in what was left open, so that the saved config says it."""
        config = self.config[self.subcommand]
        settle_home(config)
        with user_input():
            check_combinations(config)
            if self.subcommand == "fit" and (warning := check_random_start(config)):
                rank_zero_warn(warning)
        if config.run.name is None:
            given = [str(path) for path in config.get("config") or [] if path is not None]
            config.run.name = given[0].rsplit("/", 1)[-1].rsplit(".", 1)[0] if given else "default"
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
        self._weights = config.model.weights, config.model.backbone.weights
        if config.get("ckpt_path"):
            config.model.backbone.weights = config.model.weights = None  # they come from the checkpoint
        elif self.subcommand != "fit" and config.model.weights is None:
            raise InputError(f"{self.subcommand} needs a detector: --ckpt_path CHECKPOINT, or --model.weights")

    def _precision(self, accelerator: str) -> str:
        """Of a run that is resumed the one it has; else what suits this machine."""
        chosen, kept = best_precision(accelerator), None
        path = self.config[self.subcommand].get("ckpt_path")
        if self.subcommand == "fit" and path and Path(path).is_file():
            with user_input():
                kept = precision_of(outline_checkpoint(path))
        if kept not in (None, chosen.precision):
            rank_zero_info(
                f"Precision {kept}, as in the run that is resumed; this machine alone would take {chosen.precision} "
                f"({chosen.reason})"
            )
        elif self.subcommand == "fit":
            rank_zero_info(f"Precision {chosen.precision}: {chosen.reason}")
        return kept or chosen.precision

    def _run_subcommand(self, subcommand: str) -> None:
        self.datamodule.detector = self.config[subcommand].get("ckpt_path") or self._weights[0]
        try:
            try:
                super()._run_subcommand(subcommand)
            finally:
                if self._kept_metrics is not None:  # a run that was refused, or had ended, has written no others
                    put_back(self._kept_metrics)
        except Exception as error:
            end_at_once(self.trainer, error)
            if line := broken(error, str(self.config[subcommand].get("ckpt_path"))):
                raise line from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> lightning.pytorch.Trainer:
        """The trainer with our loggers, callbacks and checkpoints, and with the schedule's end."""
        config = self.config_init[self.subcommand]
        given = config.trainer
        place = run_folder(config.run.folder, given.default_root_dir or "runs", config.run.name)
        kwargs["default_root_dir"] = place
        if self.subcommand == "fit":
            if given.max_epochs is None and given.max_steps == -1:
                kwargs |= limits(config.model.schedule_config, config.data.batch_size)
            kwargs["logger"] = loggers(given.logger, place, config.run.tensorboard)
        else:
            kwargs["logger"] = given.logger or False
        if given.enable_model_summary is None:
            kwargs["enable_model_summary"] = False  # the module prints a line
        kwargs["strategy"] = chosen(given.strategy)
        refuse_with_sharding(kwargs["strategy"], self.config[self.subcommand])
        users = given.callbacks or []
        users = users if isinstance(users, list) else [users]
        save = self.subcommand == "fit" and given.enable_checkpointing is not False
        if not save:
            kwargs["enable_checkpointing"] = False
        with user_input():
            ours = callbacks(config.run, users, given.enable_progress_bar is not False, save)
        if self.subcommand == "fit":
            settle_names(users, masks=self.config["fit"].model.mask_head is not None)
            if why := why_unvalidated(self.config["fit"]):
                check_unvalidated(why, config.run.early_stopping, users)
                kwargs["limit_val_batches"] = 0
                ours.append(Unvalidated(why))
            ours.append(FirstStep(_finest_map(self.config["fit"])))
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
        if self.subcommand == "fit" and trainer.is_global_zero:
            if config.run.folder is not None:
                self._lock = hold(config.run.folder)
            self._kept_metrics = keep_metrics(config.run)
        return trainer


def _finest_map(config: Any) -> float:
    """Bytes of the pyramid's map at stride 4 in training."""
    sides = config.data.short_side
    short = max(sides, default=0) if isinstance(sides, list | tuple) else sides
    data, channels = config.data, config.model.fpn.channels
    return finest_map(data.batch_size, short, data.long_side, channels, str(config.trainer.precision))
