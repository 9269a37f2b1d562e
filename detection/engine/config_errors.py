"""Write error messages about config files and options: the problem, its line, and the option that may be meant."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from detection.documents import LARGEST_YAML, read_text
from detection.engine.hints import nearest, nearest_subcommand

HINTS = {"num_classes": "the number of classes and their names come from the annotations; remove it"}
"""Reasons why an option does not exist, by the last part of its name."""


def explain(message: str, options: Sequence[str], files: Sequence[str | Path]) -> str:
    """Shorten a parser's message, and add the most similar option and the line in the config files.

    Args:
        message: message of jsonargparse.
        options: names of all options, such as ``model.backbone.name``.
        files: config files of the command line.
    """
    if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        return _shorten(message) + nearest_subcommand(match[1], re.findall(r"\w+", match[2]))
    key = wrong_key(message)
    if key is None:
        return _shorten(message).replace(
            "the settings: not valid", f"{files[-1] if files else 'the settings'}: not valid"
        )
    return no_option(key, options, _place(key, files))


def no_option(key: str, options: Sequence[str], place: str = "") -> str:
    """Return the message about an option that does not exist, with the most similar one, or with the reason.

    Args:
        key: name of the unknown option.
        options: names of all options.
        place: file and line for the message, such as `` (my.yaml, line 3)``.
    """
    reason = HINTS.get(key.rsplit(".", 1)[-1])
    return f"no option {key}{place}{nearest(key, options)}" if reason is None else f"no option {key}: {reason}{place}"


def wrong_key(message: str) -> str | None:
    """Return the full name of the option that a parser's message rejects; None if it is about something else."""
    patterns = (
        r"unrecognized arguments: --?([\w.-]+)",
        r"(?:Group|Subcommand) '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'",
        r"Option '([\w.]+)' is not accepted",
    )
    for pattern in patterns:
        if match := re.search(pattern, message):
            groups = match.groupdict()
            if "group" not in groups:
                return match[1]
            is_subcommand = message[match.start() :].startswith("Subcommand")
            return groups["key"] if is_subcommand else f"{groups['group']}.{groups['key']}"
    return None


def _shorten(message: str) -> str:
    """Return a parser's message about a value without internal details, with a similar choice if there is one."""
    lines = [line.strip(" -") for line in message.splitlines()]
    noise = ("Does not validate against any", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>")
    lines = [line for line in lines if line and not line.startswith(noise)]
    lines = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line) for line in lines]
    lines = [re.sub(r"^Parser key \"([\w.]+)\"", r"\1", line) for line in lines]
    value = re.search(r"Got value: (\w+)", message)
    choices = re.findall(r"'([\w-]+)'", "".join(line for line in lines if "Literal[" in line))
    hint = difflib.get_close_matches(value[1], choices, n=1) if value and choices else []
    lines = [re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", line) for line in lines]
    if hint:
        lines[-1] += f"; did you mean {hint[0]}?"
    return "\n  ".join([*lines[:5], *(["..."] if len(lines) > 5 else [])])


def _place(key: str, files: Sequence[str | Path]) -> str:
    """Return `` (FILE, line N)`` of the last config file that sets an option; "" if there is none."""
    for file in reversed(files):
        text = read_text(file, LARGEST_YAML)  # checked when the config was loaded
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        line = None
        for part in key.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            match = next(((name, value) for name, value in pairs if name.value == part), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        else:
            return f" ({file}, line {line})"
    return ""
