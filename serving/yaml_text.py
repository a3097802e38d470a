"""YAML as people write it, of which nothing is dropped in silence: a key that a mapping has twice is an error, not the last one's value.
What is wrong is told with its line, and without what stands there: it may be a password."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from transforms.errors import ConfigError

__all__ = ["YamlMistake", "yaml_file", "yaml_mapping", "yaml_value"]

_TEXT, _MERGE, _TAGS = "str", "merge", "tag:yaml.org,2002:"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_WRITTEN = re.compile(r"""\b(tag|handle|alias|anchor) (['"]).*\2""")
"""Of PyYAML's words those that repeat what was written: names of anchors and tags, which a password may look like."""
_KINDS = ("bool", "float", "int", "null", "timestamp")
_EVERY = 1_000
_MOST_ALIASED = 100_000
"""How many values a text's aliases may add, written out: a few lines, each of which names the one before ten times, add billions."""


class YamlMistake(ValueError):
    """What is wrong with a text of YAML, in one line that names the line and what to do."""


class _Loader(yaml.SafeLoader):
    """As YAML's own, but for repeated keys, names that are no text, text that is none, and aliases that stand for too much. Keys are looked
    at as they were written, before ``<<`` adds what it may repeat."""

    def __init__(self, stream: str | bytes, names: int) -> None:
        super().__init__(stream)
        self._names, self._within = names, 0

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        known: dict[int, int | None] = {}
        if node is not None and _values_of(node, known) - len(known) > _MOST_ALIASED:
            raise YamlMistake(f"its aliases stand for more than {_MOST_ALIASED:,} values; use fewer of them")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        self._within += 1
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        are_names = self._within <= self._names
        self._within -= 1
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlMistake(f"line {line}: a list or a mapping stands as a key; write a name")
            kind = key.tag.removeprefix(_TAGS)
            if kind not in (_TEXT, _MERGE) and are_names:
                told = kind if kind in _KINDS else "of another type"
                raise YamlMistake(f"line {line}: the key {key.value[:80]!r} is read as {told}, not as a name; put it in quotes")
            value = key.value if kind in (_TEXT, _MERGE) else self.construct_object(key)  # 1 and 0x1 are one
            if (first := seen.get(value)) is not None:
                where = f"twice in line {line}" if first == line else f"in line {first} and in line {line}"
                raise YamlMistake(f"duplicate key {key.value[:80]!r} {where}; keep one of them")
            seen[value] = line
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if _NO_TEXT.search(node.value):
            raise YamlMistake(f"line {node.start_mark.line + 1}: a text has a NUL, or half a character; take it out")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except YamlMistake:
            raise
        except (ValueError, AttributeError, LookupError, TypeError):  # PyYAML's, of a date, a number or a truth value that is none
            raise YamlMistake(f"line {node.start_mark.line + 1}: no such date or number; correct it, or put it in quotes") from None


def _values_of(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for, each alias counted as what it names; ``known``: of nodes looked at (None: within this one)."""
    if id(node) not in known:
        known[id(node)] = None
        within = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_values_of(each, known) for each in within))
    if (count := known[id(node)]) is None:
        raise YamlMistake(f"line {node.start_mark.line + 1}: an alias stands within what it names; write it out")
    return count


def yaml_value(text: str | bytes, names: int | None = None) -> Any:
    """What a YAML (or JSON) text says. ``names``: in so many mappings, one within the other, keys are names, which are texts; in those
    within these they are values, such as a model's classes. None: in all. Raises YamlMistake."""
    loader: Any = partial(_Loader, names=_EVERY if names is None else names)  # a SafeLoader
    try:
        return yaml.load(text, Loader=loader)
    except YamlMistake:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        said = _WRITTEN.sub(r"\1 ...", error.problem or error.context or "no YAML")
        raise YamlMistake(f"{where}{said}; correct it") from None
    except yaml.reader.ReaderError as error:
        raise YamlMistake(f"at place {error.position}: {error.reason}; write it as UTF-8, without control characters") from None
    except RecursionError:
        raise YamlMistake("lists and mappings are nested too deeply; write it flatter") from None


def yaml_file(path: Path, named: str, names: int | None = None) -> Any:
    """What a file of YAML or JSON says, ``names`` as of ``yaml_value``; errors call it ``named``. Raises ConfigError, one line."""
    try:
        return yaml_value(path.read_bytes(), names)
    except OSError as error:
        raise ConfigError(f"{named} cannot be read ({error.strerror or error}); give a file of YAML or JSON") from None
    except YamlMistake as error:
        raise ConfigError(f"{named}: {error}") from None


def yaml_mapping(path: Path, named: str, fix: str, names: int | None = None) -> dict[Any, Any]:
    """As ``yaml_file``, of a file that holds a mapping; of an empty one an empty one. ``fix`` says what to write instead."""
    found = yaml_file(path, named, names)
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{named}: it is a {type(found).__name__}; {fix}")
    return found or {}
