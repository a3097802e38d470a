"""``tandem infer`` on data of somebody who means harm: what it writes is a definition and nothing else, within bounds."""

from __future__ import annotations

import ast
import bz2
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.inference import sampling
from pipelines.inference.infer_source import infer_files
from tandem.testing.memory import grown
from tests.examples import examples
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.json_payload import MAX_DEPTH

ATTACK = "__import__('os').environ.__setitem__('BROKEN','1')"
NASTY = (
    f"x\n{ATTACK}\n#", f"x\r{ATTACK}", f"x\u2028{ATTACK}", f"x\x0c{ATTACK}", f'"); {ATTACK}; ("', f'"""\n{ATTACK}\n"""', f"'+{ATTACK}+'",
    "{" + ATTACK + "}", "a\\", "\\", '"', "'", '"""', "\x1b[2J", "\x9b31m", "\u202e", "\x00", "\x7f", "#", "[]", "a.b", "a[0]",
    "", " ", "class", "def", "None", "日本", "a" * 70_000,
)  # fmt: skip
HOW = ("number", "null", "list", "word", "mixed", "objects")


def value(how: str, i: int, name: str) -> Any:
    return {
        "number": i, "null": None, "list": [name], "word": [name, "b"][i % 2], "mixed": [i, name][i % 2], "objects": [{name: i}],
    }[how]  # fmt: skip


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path


def record(i: int, **more: Any) -> dict[str, Any]:
    return {"k": f"o{i}", "at": f"2024-05-01T10:{i // 60:02d}:{i % 60:02d}Z", **more}


def is_a_definition(text: str) -> None:
    """It says what it should, and nothing that is run but constructors of definitions."""
    tree = ast.parse(text)
    for node in tree.body:
        plain = isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign))
        assert plain and (not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant)), ast.dump(node)[:200]
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called <= {
        "EventSource", "Field", "Csv", "Date", "Decimal", "ElementIndex", "Epoch", "Hex", "Number", "Text", "TimeFormat", "TimeOfDay",
            "FeatureGroup", "Entity",
        "Count", "Mean", "Max", "hours", "minutes", "seconds", "days", "col", "feast_views", "range",
    }, called  # fmt: skip
    assert all(line.isprintable() for line in text.split("\n"))
    scope: dict[str, Any] = {}
    exec(compile("\n".join(line for line in text.splitlines() if "feast_views" not in line), "inferred.py", "exec"), scope)
    assert sum(isinstance(v, EventSource) for v in scope.values()) == 1


@pytest.mark.parametrize("how", HOW)
def test_names_and_values_are_never_code(tmp_path: Path, how: str) -> None:
    """A column's name went into comments and into an f-string as it was: whoever wrote the data wrote the user's features.py."""
    records = [record(i, **{name: value(how, i, name) for name in NASTY}) for i in range(220)]
    is_a_definition(infer_files(lines(tmp_path / "log.jsonl", records), group=True).text)


def test_numbered_names_are_folded_where_they_are_plain(tmp_path: Path) -> None:
    nasty = {f"{name}{n}": n * 0.5 for name in NASTY for n in range(1, 6)}
    is_a_definition(infer_files(lines(tmp_path / "log.jsonl", [record(i, **nasty) for i in range(40)])).text)
    path = lines(tmp_path / "log.jsonl", [record(i, **{f"V{n}": i * 0.5 for n in range(1, 8)}) for i in range(40)])
    assert 'path=f"V{i}") for i in range(1, 8)),  # min=0, if they are never negative' in infer_files(path).text.replace(
        ", required=True", ""
    )


def test_what_is_not_negative_so_far_may_be(tmp_path: Path) -> None:
    """A refund came later, and was a dead letter."""
    path = lines(tmp_path / "log.jsonl", [record(i, amount=i + 0.5, itemCount=i) for i in range(140)])
    text = infer_files(path).text
    assert 'Field("amount", "float64", required=True),  # 0.5 to 139.5; min=0, if it is never negative' in text
    assert 'Field("item_count", "int64", required=True, path="itemCount", min=0),' in text


@pytest.mark.parametrize("name", ['x"""+y.jsonl', "a\nb.jsonl", "class.jsonl", "minutes.jsonl", "views.jsonl", "ü\u202e.jsonl", "\\.jsonl"])
def test_names_of_files_are_never_code(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path / name, [record(i) for i in range(40)])
    is_a_definition(infer_files(path, group=True).text)


@pytest.mark.parametrize("name", ["class", "a b", "hours", "x=1\ny", "", "É"])
def test_a_given_name_that_is_none(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path / "log.jsonl", [record(i) for i in range(40)])
    with pytest.raises(DataError, match="--name"):
        infer_files(path, name=name)


@given(
    st.lists(st.dictionaries(st.text(max_size=12), st.text(max_size=8) | st.none() | st.integers() | st.floats(), max_size=4), min_size=3)
)
@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_and_values(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    path = lines(tmp_path / "log.jsonl", [{**r, **record(i)} for i, r in enumerate(records)])
    is_a_definition(infer_files(path).text)


@pytest.mark.parametrize("name", ["log.csv", "log.tsv"])
def test_headers_of_text_files_are_never_code(tmp_path: Path, name: str) -> None:
    mark = "," if name.endswith("csv") else "\t"
    nasty = [n for n in NASTY if "\x00" not in n and len(n.splitlines()) == 1 and len(n) < 1_000]
    head = mark.join('"' + c.replace('"', '""') + '"' for c in ("k", "at", *nasty))
    rows = [mark.join((r["k"], r["at"], *("1" for _ in nasty))) for r in map(record, range(40))]
    (tmp_path / name).write_text("\n".join([head, *rows]) + "\n", "utf-8", newline="")
    is_a_definition(infer_files(tmp_path / name).text)


@pytest.mark.parametrize("suffix", ["jsonl.bz2", "csv.bz2"])
def test_a_line_without_end_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(sampling, "MAX_LINE_BYTES", 1 << 16)
    monkeypatch.setattr(sampling, "MOST_BYTES", 1 << 20)
    good = "k,at\n" if suffix.startswith("csv") else ""
    good += "".join(f"{r['k']},{r['at']}\n" if good else json.dumps(r) + "\n" for r in map(record, range(40)))
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(bz2.compress(good.encode() + b"a" * (128 << 20)))
    with grown() as most:
        assert infer_files(path).proposal.sample.rows == 40
        assert most() < 32 << 20


def test_names_that_are_data_are_told_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H3's kind: 1,000 records with other keys each are no table of 1,000 columns."""
    monkeypatch.setattr(sampling, "MOST_COLUMNS", 20)
    path = lines(tmp_path / "log.jsonl", [record(i, **{f"x{i}": 1}) for i in range(1_000)])
    found = infer_files(path)
    assert len(found.proposal.sample.columns) == 20


@pytest.mark.parametrize("depth", [60, 65, 300, 900, 990, 5_000, 100_000])
def test_nests_of_any_depth(tmp_path: Path, depth: int) -> None:
    """What is deeper than the contract takes is no record, whatever the interpreter could read."""
    path = lines(tmp_path / "log.jsonl", [record(i) for i in range(40)])
    with open(path, "a", encoding="utf-8") as out:
        out.write('{"a":' * depth + "1" + "}" * depth + "\n")
    is_a_definition(infer_files(path, event_time=None).text) if depth > MAX_DEPTH else _with_nulls(path)


def _with_nulls(path: Path) -> None:
    with pytest.raises(DataError, match="no column holds a time in every record"):
        infer_files(path)


@pytest.mark.parametrize("odd", ["1" * 5_000, '"\\ud800"', "1e999", "NaN", "-Infinity", "9" * 400, "1e400", "[" * 900 + "]" * 900])
def test_odd_values_are_left_out_or_said(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record(i))[:-1] + f', "x": {odd if i % 2 else 1.5}}}\n' for i in range(60)), "utf-8")
    is_a_definition(infer_files(path).text)


def test_text_files_that_are_none(tmp_path: Path) -> None:
    for data in (b"\x00" * 3_000, b'"' + b"a" * 300_000, b"a" * 300_000, b"\n" * 100, b"\xff" * 1_000, b'"\n' * 1_000, b",\n" * 1_000):
        (tmp_path / "a.csv").write_bytes(data)
        with pytest.raises(DataError) as caught:
            infer_files(tmp_path / "a.csv")
        assert "\n" not in str(caught.value)
