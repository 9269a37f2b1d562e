"""Parse settings: YAML files, shipped configs by name, and dotted options; report errors in one line."""

import json
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, set_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from detection.documents import DocumentError
from detection.engine.config_errors import explain
from detection.engine.configs import Config, load_yaml, read_config
from detection.engine.errors import InputError, user_input
from detection.engine.lightning_mends.parsing import NoAbbreviations, keep_whole_limits, remember_actions

set_parsing_settings(
    docstring_parse_attribute_docstrings=True,
    config_read_mode_fsspec_enabled=False,  # a config can run code, so never read one from the network
    validate_subclass_spec_in_any=True,  # data.augment: unknown transforms and arguments are errors
    instantiate_subclass_spec_in_any=True,
)
set_loader("strict_yaml", load_yaml, exceptions=(DocumentError,))

STRICT: dict[str, Any] = {"parser_mode": "strict_yaml"}

keep_whole_limits()
remember_actions()

given_configs: list[Config] = []
"""Configs of this command line so far, for the run's name and for error messages, which the parser writes without them.
"""


class ConfigFile(ActionConfigFile):
    """Read ``--config``: a file, or the name of a shipped config."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if not values.lstrip().startswith("{"):
            with user_input():
                config = read_config(values)
            given_configs.append(config)
            values = str(config.files[-1]) if config.is_one_file else json.dumps(config.settings)
        super().__call__(parser, cfg, values, option_string)


class Parser(NoAbbreviations, LightningArgumentParser):
    """Parse options without abbreviations, and report errors in one line."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse a command line, and forget the configs of the one before it in this process."""
        given_configs.clear()
        return super().parse_args(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [action.dest for action in parser._actions]
        raise InputError(explain(message, options, [file for config in given_configs for file in config.files]))
