"""``tandem batch --from-run``: what goes on where a run ended makes the rows of one run over all, byte for byte, or says why not."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import BatchResult, run_batch
from pipelines.forgetting.vacuum import vacuum
from pipelines.lineage.reproduce import reproduce
from pipelines.planning.project_plan import make_plan
from pipelines.sources import recorded_files
from tests.integration.orders_world import Orders, order
from transforms.definitions import CREATED
from transforms.errors import ConfigError, DataError

DAY0 = datetime(2024, 5, 1, tzinfo=UTC)
NOW = datetime(2031, 1, 1, tzinfo=UTC)
"""Long after any file was written: what a run recorded need not be hashed again."""
GROUPS = ("shop_orders", "city_orders")


def day(n: float) -> datetime:
    return DAY0 + timedelta(days=n)


def write(data: Path, name: str, events: Sequence[dict[str, Any]]) -> Path:
    path = data / "events/orders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(e) + "\n" for e in events))
    return path


def at(t: datetime, number: str, chance: random.Random) -> dict[str, Any]:
    return order(
        number, f"{t:%Y-%m-%dT%H:%M:%S.%f}Z", chance.choice([None, 1e-9, 0.1, 7.5, 1e15]), chance.randrange(4), chance.choice("abc")
    )


def run(world: Orders, end: datetime, start: datetime | None = None, now: datetime = NOW, **how: Any) -> BatchResult:
    return run_batch(world.repo(), start, end, now=now, progress=world.steps.say, **how)


def rows_after(world: Orders, run_id: str, group: str, after: datetime) -> pa.Table:
    files = sorted((world.data / "offline" / group / f"run={run_id}").rglob("*.parquet"))
    assert files, "a comparison of nothing"
    table = pa.concat_tables([pq.ParquetFile(f).read() for f in files]).drop([CREATED])
    delay = world.repo().groups[group].delay_us
    keep = [t > after + timedelta(microseconds=delay) for t in table["event_timestamp"].to_pylist()]
    keys = world.repo().groups[group].entity.keys
    return table.filter(pa.array(keep, pa.bool_())).sort_by([(k, "ascending") for k in (*keys, "event_timestamp")])


def file_bytes(world: Orders, run_id: str) -> dict[str, bytes]:
    """Rows and tiles by name."""
    out: dict[str, bytes] = {}
    tops = {g: world.data / "offline" / g / f"run={run_id}" for g in GROUPS} | {"tiles": world.data / "runs" / run_id / "tiles"}
    for name, top in tops.items():
        out |= {f"{name}/{p.relative_to(top)}": p.read_bytes() for p in top.rglob("*.parquet")}
    return out


def copied(world: Orders, path: Path) -> Orders:
    """The same repository and events, and no runs."""
    other = Orders(path)
    shutil.copytree(world.data / "events", other.data / "events")
    return other


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_of_runs_makes_the_rows_of_one_run(tmp_path: Path, seed: int) -> None:
    """Random histories: files by day or in one folder, events in the folders of other days, late files, borders on no hop."""
    chance = random.Random(seed)
    astray, flat = seed % 2 == 1, seed % 3 == 0
    world = Orders(tmp_path / "chain")
    borders = [day(chance.choice([2, 2.5, 2 + 1 / 1440 * chance.randrange(1, 1440)])), day(3), day(chance.choice([3.25, 4, 4.9]))]
    made: list[str] = []
    for n, border in enumerate(borders):
        since = day(-1) if n == 0 else borders[n - 1]
        for part in range(1 if n else 3):
            minutes = int((border - since) / timedelta(minutes=1))
            times = [since + timedelta(minutes=chance.random() * minutes) for _ in range(chance.choice([0, 3, 40]))]
            if astray:  # what comes after the border, and long before it
                times += [border + timedelta(hours=chance.random() * 30), since - timedelta(hours=chance.random() * 20)]
            by_day: dict[str, list[dict[str, Any]]] = {}
            for i, t in enumerate(times):
                folder = "" if flat else f"date={(t if not astray else border - timedelta(hours=1)):%Y-%m-%d}/"
                by_day.setdefault(folder, []).append(at(t, f"{n}-{part}-{i}", chance))
            for folder, events in by_day.items():
                write(world.data, f"{folder}part-{n}-{part}.jsonl", events)
        how: dict[str, Any] = {"start": day(0)} if n == 0 else {"from_run": made[-1] if chance.random() < 0.5 else "latest"}
        made.append(run(world, border, now=NOW + timedelta(hours=n), **how).run.id)
    last = run(world, borders[-1], now=NOW + timedelta(days=1), from_run="latest")
    assert last.reused and last.run.id == made[-1]
    whole = copied(world, tmp_path / "whole")
    one = run(whole, borders[-1], start=day(0)).run
    for group in GROUPS:
        assert rows_after(world, made[-1], group, borders[-2]).equals(rows_after(whole, one.id, group, borders[-2])), group
    for group in GROUPS:
        kept = [sorted((w.data / "runs" / r / "tiles" / group).glob("*")) for w, r in ((world, made[-1]), (whole, one.id))]
        assert [p.read_bytes() for p in kept[0]] == [p.read_bytes() for p in kept[1]]
    if not astray:
        alone = copied(world, tmp_path / "alone")
        same = run(alone, borders[-1], start=borders[-2], now=NOW + timedelta(hours=2)).run
        assert file_bytes(world, made[-1]) == file_bytes(alone, same.id)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three days of events, a file each, and a run of the first two."""
    made = Orders(tmp_path_factory.mktemp("first"))
    chance = random.Random(0)
    for n in range(4):
        times = [day(n - 1) + timedelta(minutes=7 * i) for i in range(200)]
        write(made.data, f"date={day(n - 1):%Y-%m-%d}/all.jsonl", [at(t, f"{n}-{i}", chance) for i, t in enumerate(times)])
    return made.path, run(made, day(2), start=day(0), now=datetime.now(UTC)).run.id


@pytest.fixture
def world(first_run: tuple[Path, str], tmp_path: Path) -> tuple[Orders, str]:
    """A copy of them."""
    folder, run_id = first_run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return Orders(tmp_path), run_id


def test_a_day_reads_its_own_files_and_hashes_no_other(world: tuple[Orders, str], monkeypatch: pytest.MonkeyPatch) -> None:
    orders, first = world
    manifest = orders.data / "runs" / first / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "created": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}))
    hashed: list[str] = []
    monkeypatch.setattr(recorded_files, "sha256", lambda path: hashed.append(str(path)))
    made = run(orders, day(3), from_run="latest", now=NOW).run.manifest
    assert [f["file"] for f in made["inputs"]["orders"]] == ["events/orders/date=2024-05-03/all.jsonl"]
    assert [f["file"] for f in made["past"]["orders"]] == [f"events/orders/date=2024-05-0{n}/all.jsonl" for n in (1, 2)]
    assert made["continues"]["run"] == first and made["events"] == {"orders": 200} and not hashed
    assert any(line.startswith(f"continuing run {first}: its tiles hold the events of 2 files") for line in orders.steps.lines)


def test_a_file_that_came_late_is_read_and_named(world: tuple[Orders, str]) -> None:
    orders, first = world
    write(orders.data, "date=2024-05-02/late.jsonl", [at(day(1.9), "late", random.Random(1))])
    made = run(orders, day(3), from_run=first).run.manifest
    assert [f["file"].rpartition("/")[2] for f in made["inputs"]["orders"]] == ["late.jsonl", "all.jsonl"]
    assert any("date=2024-05-02/late.jsonl arrived after the run that is continued, and is read too" in line for line in orders.steps.lines)


@pytest.mark.parametrize("how", ["altered", "gone", "of another size"])
def test_a_correction_of_the_past_is_refused_and_named(world: tuple[Orders, str], how: str) -> None:
    orders, first = world
    path = orders.data / "events/orders/date=2024-05-02/all.jsonl"
    text = path.read_text()
    if how == "gone":
        path.unlink()
    else:
        path.write_text(text.replace("7.5", "7.4") if how == "altered" else text + text.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"cannot be continued: events/orders/date=2024-05-02/all.jsonl (was changed|no longer exists)"):
        run(orders, day(3), from_run=first)
    assert len(list((orders.data / "runs").glob("batch-*"))) == 1
    path.write_text(text)
    assert run(orders, day(3), from_run=first).run.status == "complete"


def test_a_correction_that_no_row_can_need_does_not_hinder(world: tuple[Orders, str]) -> None:
    orders, first = world
    (orders.data / "events/orders/date=2024-04-30/all.jsonl").write_text("")
    assert run(orders, day(3), from_run=first).run.status == "complete"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("hours(24)])", "hours(23)])"), "group 'shop_orders' is now defined differently"),
        (lambda text: text.replace("allowed_lateness=hours(1)", "allowed_lateness=hours(2)"), "now has another"),
        # It may accept what was refused.
        (lambda text: text.replace('Field("sent"', 'Field("note", "string"), Field("sent"'), "is now defined differently"),
    ],
)
def test_other_definitions_are_refused(world: tuple[Orders, str], change: Any, why: str) -> None:
    orders, first = world
    file = orders.repo_path / "features.py"
    text = file.read_text()
    assert change(text) != text
    file.write_text(change(text))
    sys.modules.pop("features", None)  # each command is a process of its own
    with pytest.raises(DataError, match=why):
        run(orders, day(3), from_run=first)


def test_what_cannot_be_asked_is_one_line(world: tuple[Orders, str]) -> None:
    orders, first = world
    with pytest.raises(ConfigError, match="where what continues it starts; leave --start out"):
        run(orders, day(3), start=day(1), from_run=first)
    with pytest.raises(ConfigError, match="has rows up to 2024-05-03T00:00; name a later --end"):
        run(orders, day(2), from_run=first)
    with pytest.raises(DataError, match="there is no complete batch run of shop_orders, city_orders that ends before"):
        run(orders, day(1), from_run="latest")
    tiles = next((orders.data / "runs" / first / "tiles/shop_orders").glob("*.parquet"))
    tiles.write_bytes(tiles.read_bytes()[:-1])
    with pytest.raises(DataError, match="its tiles of 'shop_orders' are not as it wrote them"):
        run(orders, day(3), from_run=first)


def test_other_shards_and_slices_make_the_same_rows(world: tuple[Orders, str], tmp_path: Path) -> None:
    orders, first = world
    whole = copied(orders, tmp_path / "whole")
    for each in (orders, whole):
        settings = each.repo_path / "tandem.yaml"
        settings.write_text(settings.read_text().replace("shards: 1", "shards: 3"))
    made = run(orders, day(3), from_run=first).run
    assert file_bytes(orders, made.id) == file_bytes(whole, run(whole, day(3), start=day(2)).run.id)


def test_reproduce_plan_and_vacuum_know_it(world: tuple[Orders, str]) -> None:
    orders, first = world
    second = run(orders, day(3), from_run=first, now=datetime.now(UTC)).run.id
    again = reproduce(orders.repo(), second)
    assert again["verdict"] == "identical" and again["causes"] == [], again
    orders.apply(second)
    plan = make_plan(orders.repo())
    assert not [b for b in plan.batches if b.found is None]
    later = datetime.now(UTC) + timedelta(days=400)
    assert first not in {t["name"] for t in vacuum(orders.repo(), later, timedelta(days=1), keep=0, kinds=("runs",), dry_run=True)}
