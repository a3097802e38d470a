"""The benchmark's own bookkeeping: parts apart from one another, what is kept, what is published."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.kept import ROOT, Run, load, merged, save
from tests.bench.publish import BEGIN, END, PAGE, publish
from tests.bench.report import Part, Took, best_of
from tests.bench.summary import pairs


def run_of(name: str, of: str = "one", quick: bool = True, error: str = "", **seconds: float) -> Run:
    """A part with one table of these lines."""
    part = Part(f"the {name}", "rows", "warm")
    for place, (line, each) in enumerate(seconds.items()):
        part.add(line, each, 10, place=place)
    return Run(name, of, quick, (1.0, 2.0), 3.0, 2.0, [part] if seconds else [], error)


def lines(run: Run) -> dict[str, tuple[float, float, str]]:
    """Of its only table: name -> seconds, worst, of."""
    return {line.name: (line.seconds, line.worst, line.of) for line in run.tables[0].lines}


def test_a_way_keeps_its_best_and_its_worst_round() -> None:
    clock = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0])
    took = best_of(3, {"way": lambda: None}, lambda: next(clock))["way"]
    assert (took, took.worst) == (1.0, 3.0)
    part = Part("title", "rows", "warm")
    assert dataclasses.astuple(part.add("tandem", Took([2.0, 4.0]), 10))[1:5] == (2.0, 10, "", 4.0)
    assert part.ratio(part.add("rival", 8.0, 20)) == 2.0


def test_parts_that_are_measured_one_by_one_are_kept_together(tmp_path: Path) -> None:
    file = tmp_path / "bench" / "kept.json"
    assert load(file) == {}
    for name in ("graph", "join"):
        save({**load(file), name: merged(None, run_of(name, tandem=1.0, rival=2.0))}, file)
    assert list(load(file)) == ["graph", "join"]
    assert load(file)["join"] == merged(None, run_of("join", tandem=1.0, rival=2.0))


def test_measured_again_at_the_same_commit_the_worst_stays() -> None:
    before = merged(None, run_of("graph", tandem=3.0, rival=2.0))
    assert lines(merged(before, run_of("graph", tandem=1.0, rival=4.0))) == {"tandem": (1.0, 3.0, "one"), "rival": (4.0, 4.0, "one")}
    assert lines(merged(before, run_of("graph", of="two", tandem=1.0)))["tandem"] == (1.0, 1.0, "two")


def test_a_way_measured_alone_replaces_its_line_in_its_place() -> None:
    before = merged(None, run_of("stream", tandem=1.0, beam=2.0, pyflink=3.0))
    alone = run_of("stream", of="two")
    table = Part("the stream", "rows", "warm")
    table.add("beam", 5.0, 10, place=1)
    alone.tables = [table]
    now = merged(before, alone, ["beam"])
    assert list(lines(now).items()) == [("tandem", (1.0, 1.0, "one")), ("beam", (5.0, 5.0, "two")), ("pyflink", (3.0, 3.0, "one"))]


def test_a_part_that_fails_leaves_what_was_measured_before() -> None:
    before = merged(None, run_of("graph", tandem=1.0))
    now = merged(before, run_of("graph", error="ValueError: the graphs differ"))
    assert lines(now) == lines(before) and now.error == "ValueError: the graphs differ"
    assert merged(now, run_of("graph", tandem=1.0)).error == ""


def test_what_a_part_raises_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    out = tmp_path / "said.json"
    words = [sys.executable, "-m", "tests.bench.one", "no_such_part", "--out", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(out.read_text()) == {"error": "ModuleNotFoundError: No module named 'tests.bench.no_such_part'"}


def joined(*lines: str) -> Run:
    """The part ``join`` with these ways, a second longer each."""
    part = Part("point-in-time join: 10 rows", "rows", "warm")
    for place, line in enumerate(lines):
        part.add(line, 1.0 + place, 10, place=place)
    return merged(None, Run("join", "one", True, (1.0, 2.0), 3.0, 2.0, [part]))


def test_publishing_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold | figures\n{END}\nafter\n")
    failed = merged(None, run_of("daily", error="it broke | here"))
    kept = {"join": joined("tandem, ASOF", "feast, duckdb", "pandas merge_asof"), "daily": failed}
    assert publish(kept, ["join", "daily", "http"], tmp_path) == ["README.md", PAGE]
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old | figures" not in text
    assert "| **Batch** | | | | |\n| point-in-time join, from files | 1 s | Feast with DuckDB | 2 s | 2 |" in text
    assert "| daily | failed the last time | it broke \\| here | | |" in text and "Not measured: http." in text
    again = text
    publish(kept, ["join", "daily", "http"], tmp_path)
    assert readme.read_text() == again
    assert "| feast, duckdb | 2 s |  | 5 | 2.00 |  |" in (tmp_path / PAGE).read_text()


def test_a_line_of_readme_that_is_called_something_else_is_missed_and_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    publish({"join": joined("tandem, ASOF", "Feast by another name")}, ["join"], tmp_path)
    assert "Not measured: join beside Feast with DuckDB, join beside pandas, already in memory." in (tmp_path / "README.md").read_text()


def test_a_ratio_is_of_times_per_unit() -> None:
    part = Part("point-in-time join: 10 rows", "rows", "warm")
    part.add("tandem", 1.0, 10)
    part.add("feast", 1.0, 5)
    (pair,) = pairs({"join": Run("join", "one", True, (1.0, 2.0), 3.0, 2.0, [part])})["Batch"]
    assert (pair.what, pair.name, pair.ratio) == ("point-in-time join, from files", "Feast with DuckDB", 2.0)


def test_a_limit_stands_beside_the_store_that_it_is_of() -> None:
    """One MGET of Redis is no limit of SQLite, which answers in process."""
    tables = []
    for store in ("redis", "sqlite"):
        for size in (1, 100):
            part = Part(f"{size} entities from {store}: 3 views, 20 features, in process", "entities", "warm")
            for line, seconds in (
                ("tandem, compiled plan", 2.0),
                ("feast SDK over its own store", 4.0),
                ("packed rows in Redis, one MGET", 1.0),
            ):
                part.add(line, seconds, size)
            tables.append(part)
    found = pairs({"online": Run("online", "one", True, (1.0, 2.0), 3.0, 2.0, tables)})["Online"]
    assert [(pair.what, pair.name) for pair in found] == [
        *((f"read a batch of {size} (redis)", "limit: one MGET of Redis") for size in (1, 100)),
        *((f"read a batch of {size} ({store})", "Feast SDK") for store in ("redis", "sqlite") for size in (1, 100)),
    ]


def test_nothing_is_published_where_there_is_nothing_or_no_place(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("no marks\n")
    with pytest.raises(ValueError, match="nothing is measured yet"):
        publish({}, ["graph"], tmp_path)
    with pytest.raises(ValueError, match="lacks the lines"):
        publish({"graph": merged(None, run_of("graph", tandem=1.0))}, ["graph"], tmp_path)


def test_the_readme_has_the_marks() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)
