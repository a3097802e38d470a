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


TEN = ", ".join(["*a{0}"] * 10)


@pytest.mark.parametrize(
    "line",
    ["[" + TEN + "]", "{{<<: [" + TEN + "]}}", "{{b: {{<<: [" + TEN + "], c: 1}}}}", "{{<<: *a{0}, b: [" + TEN + "]}}"],
    ids=["lists", "merged", "merged within", "both"],
)
def test_aliases_that_stand_for_billions_are_refused_before_they_are_written_out(line: str) -> None:
    """Ten of ten of ten ...: a merge (``<<``) is written out while it is read, other aliases when what was read is recorded."""
    text = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {line.format(n - 1)}\n" for n in range(1, 12))
    with pytest.raises(YamlMistake, match=r"^its aliases stand for more than 100,000 values; use fewer of them$"):
        yaml_value(text)
    few = "\n".join(text.splitlines()[:4])
    assert list(yaml_value(few)) == ["a0", "a1", "a2", "a3"]


@pytest.mark.parametrize("text", ["a: &a {b: *a}", "a: &a [1, *a]", "&a {b: [{c: *a}]}", "a: &a {<<: *a}"])
def test_what_stands_within_itself_is_refused(text: str) -> None:
    with pytest.raises(YamlMistake, match="line 1: an alias stands within what it names"):
        yaml_value(text)


def test_a_long_text_without_aliases_may_hold_as_much_as_it_says() -> None:
    assert len(yaml_value("[" + "1, " * 110_000 + "]")) == 110_000
