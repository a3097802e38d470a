"""``tandem plan`` looks at a table's version without reading its rows: one that moved on makes rows stale, one that is away is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.planning.plan_text import lines, to_dict
from pipelines.sources.tables import snapshots
from pipelines.sources.tables.snapshots import table_news, take_snapshot
from pipelines.sources.tables.table_reader import Rows, TableReader
from tests.unit.plan_world import Shop, make_shop, recomputed
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
    assert not shop.plan().changes and table_news(shop.data, shop.repo().sources["visits"]) == ""


def test_a_table_that_moved_on_makes_its_groups_rows_anew(shop: Shop) -> None:
    table(shop, 2, 5)
    plan = shop.plan()
    assert recomputed(plan) == {"page_visits"}
    assert "    table of visits: version 1 -> 2: rows are made of a new snapshot" in lines(plan)
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
    said = "its table cannot be looked at here, a run takes it as it is then: source 'visits': no table can be read at table.json"
    assert f"    {said}" in lines(plan)
    assert [g["table_unseen"] is None for g in to_dict(plan)["groups"]] == [True, True, False]
