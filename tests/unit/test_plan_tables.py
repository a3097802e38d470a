"""``tandem plan`` looks at a table's version, or the number of its rows, without reading them: one that moved on makes rows stale, one that
is away is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipelines.planning.plan_text import lines, to_dict
from pipelines.sources.tables import snapshots
from pipelines.sources.tables.query_table import QueryTable
from pipelines.sources.tables.snapshots import table_news, take_snapshot
from pipelines.sources.tables.table_reader import Rows, TableReader
from tests.unit.plan_world import Shop, make_shop, recomputed
from transforms.definitions import Query
from transforms.errors import DataError

TABLE = 'table=Query("SELECT 1")'


class Versioned(TableReader):
    """A table that knows its version: a file of JSON says it, and how many rows there are."""

    place: Path

    def identity(self) -> Mapping[str, Any]:
        if not self.place.exists():
            raise DataError(f"source {self.name!r}: no table can be read at {self.place.name}")
        return {"kind": "versioned", "version": json.loads(self.place.read_text())["version"]}

    @contextmanager
    def open(self) -> Iterator[Rows]:
        count = json.loads(self.place.read_text())["rows"]
        batch = pa.record_batch([pa.array([f"v{i}" for i in range(count)]), pa.array(["p"] * count)], names=["id", "page"])
        yield Rows(iter([batch]), self.identity())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """One whose visits are a table, with rows of all groups."""
    made = make_shop(tmp_path)
    made.replace("features.py", "Count, Csv", "Count, Query, Csv")
    made.replace("features.py", 'files="events/visits"', TABLE)
    monkeypatch.setattr(Versioned, "place", tmp_path / "table.json", raising=False)
    monkeypatch.setattr(snapshots, "TABLES", type("Kinds", (), {"load": staticmethod(lambda kind: Versioned)}))
    table(made, 1, 3)
    snapshot(made)
    made.batch()
    made.apply()
    made.load()
    return made


def table(shop: Shop, version: int, rows: int) -> None:
    Versioned.place.write_text(json.dumps({"version": version, "rows": rows}))


def snapshot(shop: Shop) -> None:
    take_snapshot(shop.data, shop.repo().sources["visits"])


def test_a_table_as_it_was_is_no_change(shop: Shop) -> None:
    assert not shop.plan().changes and table_news(shop.data, shop.repo().sources["visits"]) == ("", "")


def test_a_table_that_moved_on_makes_its_groups_rows_anew(shop: Shop) -> None:
    table(shop, 2, 5)
    plan = shop.plan()
    assert recomputed(plan) == {"page_visits"}
    assert "    table of visits: version 1 -> 2: rows are computed from a new snapshot" in lines(plan)
    assert plan.commands[0] == "tandem batch --start 2024-05-01 --end 2024-05-03 --group page_visits --pinned"
    snapshot(shop)  # as the run does
    assert shop.follow(plan) == {"page_visits"} and not shop.plan().changes


def test_a_snapshot_that_another_run_took_is_seen(shop: Shop) -> None:
    table(shop, 2, 5)
    snapshot(shop)
    plan = shop.plan()
    assert recomputed(plan) == {"page_visits"} and "event files of visits: 1 altered" in "\n".join(lines(plan))


def test_a_version_without_another_row_is_taken_and_then_the_plan_is_empty(shop: Shop) -> None:
    table(shop, 2, 3)
    plan = shop.plan()
    assert recomputed(plan) == {"page_visits"}
    snapshot(shop)
    assert not shop.plan().changes, "the same rows: the run that there is holds"


def test_a_table_that_is_away_is_told_and_fails_nothing(shop: Shop) -> None:
    Versioned.place.unlink()
    plan = shop.plan()
    assert not plan.changes
    said = "its table cannot be read here; a run will use its state at that time: source 'visits': no table can be read at table.json"
    assert f"    {said}" in lines(plan)
    assert [g["table_unseen"] is None for g in to_dict(plan)["groups"]] == [True, True, False]


@pytest.fixture
def queried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """One whose visits are a query of a database, with rows of all groups."""
    database = tmp_path / "visits.duckdb"
    visits(database, "CREATE TABLE visits AS SELECT 'v' || i AS id, 'p' AS page FROM range(3) t(i)")
    monkeypatch.setenv("VISITS_DB", str(database))
    made = make_shop(tmp_path)
    made.replace("features.py", "Count, Csv", "Count, Query, Csv")
    made.replace("features.py", 'files="events/visits"', 'table=Query("SELECT * FROM db.visits ORDER BY id; ", attach={"db": "VISITS_DB"})')
    snapshot(made)
    made.batch()
    made.apply()
    made.load()
    return made


def visits(database: Path, sql: str) -> None:
    with duckdb.connect(str(database)) as db:
        db.execute(sql)


def test_a_query_with_more_rows_makes_its_groups_rows_anew(queried: Shop, tmp_path: Path) -> None:
    assert not queried.plan().changes and "only a run tells" not in "\n".join(lines(queried.plan()))
    visits(tmp_path / "visits.duckdb", "INSERT INTO visits VALUES ('v7', 'p'), ('v8', 'p')")
    plan = queried.plan()
    assert recomputed(plan) == {"page_visits"}
    assert "    table of visits: rows 3 -> 5: rows are computed from a new snapshot" in lines(plan)
    snapshot(queried)  # as the run does
    assert queried.follow(plan) == {"page_visits"} and not queried.plan().changes
    visits(tmp_path / "visits.duckdb", "DELETE FROM visits WHERE id <> 'v7'")
    assert "    table of visits: rows 5 -> 1: rows are computed from a new snapshot" in lines(queried.plan())


def test_a_query_with_other_rows_of_the_same_number_is_seen(queried: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "visits.duckdb"
    visits(database, "UPDATE visits SET page = 'q' WHERE id = 'v1'")
    plan = queried.plan()
    assert recomputed(plan) == {"page_visits"}
    assert "    table of visits: 3 rows, not the same ones: rows are computed from a new snapshot" in lines(plan)
    monkeypatch.setattr(snapshots, "MOST_DIGESTED", 2)  # too many to be read for a plan
    assert not queried.plan().changes and "3 rows, as many as the last snapshot; whether" in "\n".join(lines(queried.plan()))
    monkeypatch.undo()
    monkeypatch.setenv("VISITS_DB", str(database))
    snapshot(queried)  # as the run does
    assert queried.follow(plan) == {"page_visits"} and not queried.plan().changes
    visits(database, "UPDATE visits SET page = 'p' WHERE id = 'v1'")
    visits(database, "UPDATE visits SET page = 'q' WHERE id = 'v1'")
    assert not queried.plan().changes


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("FROM range(7)", 7), ("WITH a AS (SELECT 1) SELECT * FROM a -- one", 1), ("SET threads = 1; SELECT 1", None),
        ("SELECT 1 WHERE false;", 0), ("DESCRIBE SELECT 1", 1),
    ],
)  # fmt: skip
def test_rows_of_a_query_are_counted_where_it_can_be(sql: str, count: int | None) -> None:
    assert QueryTable("orders", Query(sql)).count() == count


def test_a_query_that_fails_fails_no_plan(queried: Shop, tmp_path: Path) -> None:
    visits(tmp_path / "visits.duckdb", "DROP TABLE visits")
    said = [line for line in lines(queried.plan()) if "table cannot be read here" in line]
    assert len(said) == 1 and "source 'visits': its query failed" in said[0]
