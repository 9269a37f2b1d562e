"""YAML's events as dicts, lists and text, with limits on depth, on numbers, and on what aliases repeat."""

import re
from typing import Any, NoReturn

import yaml

DEEPEST = 64
"""Brackets or lists inside one another; COCO files need 5, configs 6."""
MOST_DIGITS = 256
"""Of a whole number; 309 digits are more than a float can hold."""
MOST_NODES = 250_000
"""Values in a file after its aliases were followed."""

_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))}


class YamlValues:
    """Makes dicts, lists and text of YAML's events, and counts what aliases repeat."""

    def __init__(self) -> None:
        self.content: Any = None
        self._open: list[tuple[Any, list[Any], str | None, int]] = []  # container, pending key, anchor, nodes before
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event.

        Raises:
            yaml.MarkedYAMLError: as :func:`parse_yaml` says.
        """
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                _reject("it holds several documents", event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                _reject(f"alias {event.anchor[:60]} is of nothing, or of what holds it", event)
            value, nodes = self._anchors[event.anchor]
            self._add(value, nodes, event)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_scalar(event)
            self._add(event.value, 1, event)
            if event.anchor:
                self._anchors[event.anchor] = event.value, 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            value, _, anchor, before = self._open.pop()
            if anchor:
                self._anchors[anchor] = value, self._nodes - before

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._open) >= DEEPEST:
            _reject(f"nested more than {DEEPEST} deep", event)
        self._check_tag(event)
        before = self._nodes
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._add(value, 1, event)
        self._anchors.pop(event.anchor, None)  # until it ends, the name would be of what holds it
        self._open.append((value, [], event.anchor, before))

    def _add(self, value: Any, nodes: int, event: yaml.NodeEvent) -> None:
        """Put a value into the innermost container."""
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            _reject(f"it has more than {MOST_NODES} values, with those that aliases repeat", event)
        if not self._open:
            self.content = value
            return
        container, pending, _, _ = self._open[-1]
        if isinstance(container, list):
            container.append(value)
        elif pending:
            container[pending.pop()] = value
        elif not isinstance(value, str):
            _reject("a key is a list or a mapping", event)
        elif value in container:
            _reject(f"key {str(value)[:60]} occurs twice", event)
        else:
            pending.append(value)

    def _check_scalar(self, event: yaml.ScalarEvent) -> None:
        self._check_tag(event)
        if len(event.value) > MOST_DIGITS and not event.style and re.match(r"[-+]?\d[\da-fA-FxXoO_:]*\Z", event.value):
            _reject(f"the number of digits is {len(event.value)}; at most {MOST_DIGITS} are allowed", event)

    @staticmethod
    def _check_tag(event: yaml.NodeEvent) -> None:
        if event.tag not in _TAGS:
            _reject(f"the tag {event.tag[:60]} is not allowed", event)


def _reject(problem: str, event: yaml.Event) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
