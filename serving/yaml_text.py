"""YAML as people write it, of which nothing is dropped in silence: a key that a mapping has twice is an error, not the last one's value."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["RepeatedKey", "yaml_value"]


class RepeatedKey(yaml.YAMLError):
    """A mapping has a key twice; says which, and in which lines."""


class _Loader(yaml.SafeLoader):
    """As YAML's own, but for repeated keys. They are looked for in what was written, before ``<<`` adds what it may repeat."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, first = key.start_mark.line + 1, seen.get((key.tag, key.value))
                if first is not None:
                    where = f"twice in line {line}" if first == line else f"in line {first} and in line {line}"
                    raise RepeatedKey(f"duplicate key {key.value[:80]!r} {where}; keep one of them")
                seen[key.tag, key.value] = line
        return node


def yaml_value(text: Any) -> Any:
    """What a YAML (or JSON) text, or an open file of it, says. Raises RepeatedKey, and yaml.YAMLError for what is no YAML."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader
