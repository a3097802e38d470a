"""YAML as people write it: what is wrong is one line that does not repeat it, and only names must be texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.experiments import read_grid
from serving.yaml_text import YamlMistake, yaml_value


@pytest.mark.parametrize(
    "text",
    [
        *(f"a: !!{kind} hunter2" for kind in ("timestamp", "bool", "int", "float", "binary", "set", "omap", "seq", "python/object:x")),
        "a: !hunter2 x", "a: !hun'ter2 x", "a: *hunter2", "a: &hunter2 b\nc: &hunter2 d\ne: *hunter2 f", "a: 'hunter2", 'a: "hunter2\\q"',
        "a: [1, hunter2", "a: {b: hunter2", "!!hunter2 a: 1", "!hunter2!x a", "%TAG !hunter2! a\n%TAG !hunter2! b\n---\na",
        "a: !!timestamp 2024-13-45", "a: hunter2: x", "- hunter2\nb", "!!bool hunter2: x", "? [hunter2]\n: x",
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_does_not_repeat_it(text: str) -> None:
    for names in (None, 0):
        with pytest.raises(YamlMistake, match=r"^line [0-9]+: ") as error:
            yaml_value(text, names)
        assert "\n" not in str(error.value) and not re.search("(?<!key ')hunter", str(error.value)), error.value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1,2", "line 1: expected ',' or ']', but got '<stream end>'; correct it"),
        ("a: {b", "line 1: expected ',' or '}', but got '<stream end>'; correct it"),
        ("a: !secret x", "line 1: could not determine a constructor for the tag ...; correct it"),
        ("a: *x1", "line 1: found undefined alias ...; correct it"),
        ("\na: !!timestamp x", "line 2: no such date or number; correct it, or put it in quotes"),
    ],
)
def test_it_is_told_in_whole_words(text: str, said: str) -> None:
    with pytest.raises(YamlMistake) as error:
        yaml_value(text)
    assert str(error.value) == said


@pytest.mark.parametrize("names", [None, 0, 1, 2])
def test_keys_within_values_may_be_anything(names: int | None) -> None:
    """A mapping in a list within a mapping: the second one."""
    text = "weight:\n- {0: 1.0, 1: 5.0}\n- {0: 1, '0': 2, true_: 3}\n"
    if names in (None, 2):
        with pytest.raises(YamlMistake, match="line 2: the key '0' is read as int, not as a name; put it in quotes"):
            yaml_value(text, names)
        return
    assert yaml_value(text, names) == {"weight": [{0: 1.0, 1: 5.0}, {0: 1, "0": 2, "true_": 3}]}
    with pytest.raises(YamlMistake, match="duplicate key '0x1' twice in line 1"):
        yaml_value("a: {1: 2, 0x1: 3}", names)
    if names:
        with pytest.raises(YamlMistake, match="line 2: the key '1' is read as int"):
            yaml_value("a: {1: 2}\n1: x", names)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class_weight: [{0: 1.0, 1: 5.0}, {0: 1.0}]", [{"class_weight": {0: 1.0, 1: 5.0}}, {"class_weight": {0: 1.0}}]),
        ("- class_weight: {0: 1.0, 2024-01-01: {1: 2}}", None),
        ("- {class_weight: {0: 1.0}, units: 3}", [{"class_weight": {0: 1.0}, "units": 3}]),
    ],
)
def test_a_grid_of_mappings(tmp_path: Path, text: str, found: list[dict[str, Any]] | None) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    grid = read_grid(tmp_path / "grid.yaml")
    assert grid == found if found is not None else [list(one) for one in grid] == [["class_weight"]]
