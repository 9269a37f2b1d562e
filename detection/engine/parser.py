"""The parser of settings: YAML files, shipped configs by name, dotted options, and brief messages."""

from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, set_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from detection.documents import DocumentError, read_yaml
from detection.engine.configs import explain, find_config, load_yaml
from detection.engine.errors import InputError, user_input
from detection.engine.lightning_mends.parsing import NoAbbreviations, keep_whole_limits

set_parsing_settings(
    docstring_parse_attribute_docstrings=True,
    config_read_mode_fsspec_enabled=False,  # a config is code: none from the network
    validate_subclass_spec_in_any=True,  # data.augment: unknown transforms and arguments are errors
    instantiate_subclass_spec_in_any=True,
)
set_loader("strict_yaml", load_yaml, exceptions=(DocumentError,))

STRICT: dict[str, Any] = {"parser_mode": "strict_yaml"}

keep_whole_limits()

config_files: list[str] = []
"""The config files given so far, for error messages: a parser does not know them where it fails."""


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
            config_files.append(str(Path(values).absolute()))  # jsonargparse changes the folder as it reads
        super().__call__(parser, cfg, values, option_string)


class Parser(NoAbbreviations, LightningArgumentParser):
    """Takes no abbreviations, and is brief about mistakes."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [action.dest for action in parser._actions]
        raise InputError(explain(message, options, config_files))
