"""FAULTS 1, 12, 20, 25: after ROUND (batch, apply, materialize) what is served is what would be trained on, whatever was there before."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast.protos.feast.types.Value_pb2 import Value

from pipelines import workflow
from pipelines.feature_store.store import open_store, ordered_store
from pipelines.forgetting.erase import erase
from pipelines.forgetting.subject import Subject
from pipelines.planning.project_plan import make_plan
from pipelines.verify.offline_online import compare_stores
from tests.integration.orders_world import END, START, Orders, order
from transforms.errors import ConfigError, DataError, GraphError
from transforms.instants import micros_of

NAMES = ("count_1h", "count_24h", "amount_mean_1h")


def at(clock: str) -> datetime:
    """A time of the day."""
    hour, minute = map(int, clock.split(":"))
    return START.replace(hour=hour, minute=minute)


@pytest.fixture
def world(tmp_path: Path) -> Orders:
    """A repository without events, asked at half past ten: its windows of an hour are not empty yet."""
    return Orders(tmp_path, as_of=at("10:30"))


def both(world: Orders, **which: Any) -> tuple[Any, ...]:
    """What both stores say now, which is the same."""
    offline = world.offline(*NAMES, at=world.as_of, **which)
    assert world.online(*NAMES, **which) == offline
    return offline


def test_an_event_that_was_in_the_log_twice_counts_once_when_the_log_is_corrected(world: Orders) -> None:
    """FAULTS 1a."""
    world.log([order("o1", "10:02"), order("o1", "10:02")])
    world.round()
    assert both(world) == (2, 2, 5.0)
    world.log([order("o1", "10:02")])
    world.round()
    assert both(world) == (1, 1, 5.0)
    (world.data / "online.db").unlink()
    world.round()
    assert both(world) == (1, 1, 5.0)


def test_an_event_that_is_taken_out_of_the_log_is_gone(world: Orders) -> None:
    """FAULTS 1b: also where the newer run has no row, and from keys that have none at all any more."""
    world.move_to(at("12:30"))
    world.log([order("o1", "10:02"), order("o2", "12:02", 1_000_000.0), order("o3", "12:02", shop=2), order("o4", "10:10", shop=3)])
    world.round()
    assert both(world) == (1, 2, 1_000_000.0)
    assert both(world, shop=2) == (1, 1, 5.0)
    world.log([order("o1", "10:02"), order("o4", "10:10", shop=3)])
    world.round(pinned=True)
    assert both(world) == (0, 1, None)
    assert both(world, shop=2) == (None, None, None)
    assert both(world, shop=3) == (0, 1, None)


def test_an_entity_that_was_erased_and_comes_back_with_the_same_events_is_there_again(world: Orders) -> None:
    """FAULTS 1: the log of before the erasure (a backup that is put back) found the run of before, whose rows the erasure took."""
    log = [order("o1", "10:02"), order("o2", "10:03", shop=2)]
    world.log(log)
    run = world.round()
    erase(world.repo(), Subject.parse(["shop=1"]))
    assert world.offline(*NAMES, at=world.as_of) == (None, None, None) == world.online(*NAMES)
    world.log(log)
    assert all(batch.found is None for batch in make_plan(world.repo(), asked=(START, END)).batches)
    assert world.round() != run
    assert both(world) == (1, 1, 5.0) == both(world, shop=2)


def test_a_day_that_was_deleted_whole_is_taken_back_by_an_empty_file(world: Orders) -> None:
    """FAULTS 1b: without any file nobody knows whether the range is wrong; the line says how to say that there was nothing."""
    world.log([order("o1", "10:02")])
    world.round()
    file = world.data / "events/orders/date=2024-05-01/all.jsonl"
    file.unlink()
    with pytest.raises(ConfigError, match="put an empty file below date=2024-05-01"):
        world.batch()
    file.touch()
    world.round()
    assert both(world) == (None, None, None)


def test_a_run_that_made_no_row_is_called_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was said that there was no run."""
    world = Orders(tmp_path)
    world.log([])
    run = world.batch()
    world.apply(run)
    with pytest.raises(DataError, match=rf"no view has rows .*; batch run {run} .* made no row: .*'tandem runs show {run}'") as told:
        world.materialize(START, END)
    assert "run 'tandem batch'" not in str(told.value)
    lines = {r.getMessage() for r in caplog.records if r.name == "tandem.offline"}
    assert any(
        f"'shop_orders_rows': its runs made no row: no event that they took has an entity of this group; 'tandem runs show {run}'" in line
        for line in lines
    ), lines
    assert not any("tandem batch" in line for line in lines)


def test_events_below_the_folder_of_another_day_are_told(world: Orders) -> None:
    """FAULTS 5: folders by local days: a run up to midnight does not look into the next day's, where its last hours lie."""
    world.log([order("o1", "10:02"), order("o0", "2024-04-30T23:30:00Z"), order("o2", "2024-05-02T00:00:00Z")])
    run = json.loads((world.data / "runs" / world.batch() / "manifest.json").read_text())
    assert run["misplaced"] == {"orders": 2}
    assert any("events in a date= folder of another day (UTC): 2 of orders" in line for line in world.steps.lines)
    world.steps.lines.clear()
    world.log([order("o1", "10:02")])
    world.batch()
    assert not any("another day" in line for line in world.steps.lines)


def test_rows_of_a_new_graph_replace_those_of_the_old_one(world: Orders) -> None:
    """FAULTS 1c: the old row has more events and a later time, and its graph is not the applied one."""
    world.log([order("o1", "10:02"), order("o2", "10:03", 1_000_000.0), order("o3", "10:20", 1_000_000.0, shop=2)])
    world.round()
    assert both(world) == (2, 2, 500_002.5)
    world.define(", max=1000")
    world.round()
    assert both(world) == (1, 1, 5.0)
    assert both(world, shop=2) == (None, None, None)


def test_a_correction_that_is_taken_back_is_taken_back(world: Orders) -> None:
    """FAULTS 1: the log is as it was; its run of then was found again, and the correction's run went on deciding."""
    first = [order("o1", "10:02")]
    corrected = [order("o1", "10:02", 9.0), order("o2", "10:03", shop=2)]
    for log, one, two in ((first, 5.0, None), (corrected, 9.0, 5.0), (first, 5.0, None), (corrected, 9.0, 5.0)):
        world.log(log)
        run = world.round()
        assert both(world)[2] == one and both(world, shop=2)[2] == two
        assert world.batch() == run  # nothing new was said meanwhile
    world.log([*first, order("o2", "10:25", shop=2)])
    world.batch(at("10:20"), at("11:00"))  # of another part of the day: the newest of both rules there
    world.log(corrected)
    world.round()
    assert both(world, shop=2) == (1, 1, 5.0)


def test_a_definition_that_comes_back_is_applied_again(world: Orders) -> None:
    """FAULTS 1 and 20: batch found the run of then and had nothing to do, and apply wanted a new one: there was no way out."""
    world.log([order("o1", "10:02"), order("o2", "10:03", 1_000_000.0)])
    for amount, found in (("", (2, 2, 500_002.5)), (", max=1000", (1, 1, 5.0)), ("", (2, 2, 500_002.5)), (", max=1000", (1, 1, 5.0))):
        world.define(amount)
        world.batch()
        world.apply()  # of the newest run
        world.materialize()
        assert both(world) == found


def test_a_run_over_a_part_decides_that_part_alone(world: Orders) -> None:
    world.move_to(at("14:30"))
    world.log([order("o1", "10:02"), order("o2", "12:02"), order("o3", "14:02")])
    world.round()
    world.log([order("o2", "12:02", 7.0), order("o3", "14:02")])
    world.batch(at("12:00"), at("13:00"), pinned=True)
    world.materialize()
    # Before and after it the first run's rows hold: they know o1, and the old amount of o2.
    assert world.offline(*NAMES, at=at("10:30")) == (1, 1, 5.0)
    assert world.offline(*NAMES, at=at("12:30")) == (1, 1, 7.0)
    assert both(world) == (1, 3, 5.0)


def test_what_a_correction_of_a_part_leaves_behind_is_told(world: Orders) -> None:
    """FAULTS 1: of windows of 24 hours, those behind the corrected hours reach back into them, and are of the run before."""
    good, wrong = order("o1", "10:02"), order("o2", "12:02", 1_000_000.0)
    world.log([good, wrong])
    world.round()
    world.log([good])
    noon = datetime(2024, 5, 1, 13, tzinfo=START.tzinfo)
    before = len(world.steps.lines)
    world.batch(START, noon)
    told = [line for line in world.steps.lines[before:] if "still those of" in line]
    assert [line.partition(":")[0] for line in told] == ["shop_orders", "city_orders"]
    assert all("after 2024-05-01 13:00" in line and "all.jsonl" in line and "up to 2024-05-02 00:00" in line for line in told)
    assert world.offline("count_24h", at=noon + timedelta(minutes=10)) == (2,), "the rows behind are as told"
    before = len(world.steps.lines)
    world.round()
    world.batch(START, noon - timedelta(hours=2))
    assert not [line for line in world.steps.lines[before:] if "still those of" in line], "nothing is left behind"
    assert world.offline("count_24h", at=noon + timedelta(minutes=10)) == (None,), "its row of 11:06 has expired, and there is no other"


def test_a_key_whose_last_rows_are_gone_has_the_one_before_the_range(world: Orders) -> None:
    world.move_to(at("12:30"))
    world.log([order("o1", "10:02"), order("o2", "12:02", 7.0)])
    world.round()
    world.log([order("o1", "10:02")])
    run = world.batch(at("12:00"), END, pinned=True)
    world.apply(run)
    world.materialize(at("12:00"), END)
    assert both(world) == (0, 1, None)


@pytest.mark.parametrize("by", ["tandem", "feast"])
def test_a_range_that_ends_ahead_of_the_clock_brings_what_is_true_now(world: Orders, by: str) -> None:
    """FAULTS 1 and 2: today's run, up to the end of the day, has rows of windows that will have run empty. Per key the latest one was
    offered, and refused as ahead of the clock: nothing was loaded, a correction did not come, and what a stream said until then was taken
    for covered."""

    def load() -> None:
        if by == "feast":
            world.feast().materialize(START, END)
        else:
            workflow.materialize(world.repo(), START, END, world.steps)

    world.log([order("o1", "10:02"), order("o2", "10:20", shop=2)])
    world.apply(world.batch())
    load()
    assert both(world) == (1, 1, 5.0) and both(world, shop=2) == (1, 1, 5.0)
    world.log([order("o1", "10:02", 9.0), order("o2", "10:20", shop=2)])
    world.batch(pinned=True)
    load()
    assert both(world) == (1, 1, 9.0)
    world.move_to(at("11:10"))
    load()
    assert both(world) == (0, 1, None)
    if by == "tandem":
        store = open_store(world.repo())
        covered = ordered_store(store).covered(store.config, "shop_orders")
        assert covered is not None and covered.upto_us == micros_of(at("11:10"))
        with pytest.raises(DataError, match=r"--start 2024-05-01 12:00 is in the future \(now: 2024-05-01 11:10"):
            workflow.materialize(world.repo(), at("12:00"), END, world.steps)


def test_feasts_own_materialize_brings_a_correction_too(world: Orders) -> None:
    world.log([order("o1", "10:02"), order("o1", "10:02")])
    world.round()
    world.log([order("o1", "10:02")])
    world.apply(world.batch())
    world.feast().materialize(START, at("10:30"))
    assert world.online(*NAMES) == (1, 1, 5.0)


def test_a_known_zero_does_not_expire(world: Orders) -> None:
    """FAULTS 25: the row that says that the windows are empty is true until the next event, in training and serving."""
    world.log([order("o1", "10:02")])
    world.move_to(at("14:00"))
    world.round(end=END + timedelta(days=1))
    # 11:05 says count_24h=1, and no row followed until 10:05 of the next day: that one expires after two hours.
    assert both(world) == (None, None, None)
    world.move_to(END + timedelta(days=9))
    assert world.online(*NAMES) == (None, None, None)
    world.materialize(end=END + timedelta(days=1))
    assert both(world) == (0, 0, None)


def test_a_contract_that_accepts_more_keeps_its_graph(world: Orders) -> None:
    """FAULTS 20: one more word in a domain is no redefinition; one less is."""
    events = [order("o1", "10:02", channel="web"), order("o2", "10:03", channel="app")]
    world.define(channel=', domain=("web",)')
    world.log(events)
    first = world.repo().data / "runs" / world.round()
    assert both(world) == (1, 1, 5.0)
    world.define(channel=', domain=("web", "app")')
    run = world.round(pinned=True)
    assert both(world) == (2, 2, 5.0)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (first, world.data / "runs" / run)]
    assert manifests[0]["fingerprints"] == manifests[1]["fingerprints"]
    assert manifests[1]["carried_over"] == {n: ["field 'channel' takes 'app'"] for n in ("shop_orders", "city_orders")}
    assert any("carried over to a contract that accepts more: field 'channel' takes 'app'" in line for line in world.steps.lines)
    world.define(channel=', domain=("app",)')
    with pytest.raises(GraphError, match="was redefined after its graph"):
        world.batch(pinned=True)


def test_the_stores_are_compared_for_every_key(world: Orders) -> None:
    """FAULTS 1: ``tandem verify --stores`` finds rows that differ, rows too many, and says what was not materialized."""
    world.log([order("o1", "10:02"), order("o2", "10:03", shop=2)])
    world.round()
    found = compare_stores(world.repo(), world.feast())
    assert {n: (p.keys, p.causes, p.unexplained) for n, p in found.items()} == {
        "shop_orders": (2, {"equal": 2}, 0),
        "city_orders": (0, {}, 0),
    }
    db = sqlite3.connect(world.data / "online.db")
    key = db.execute("SELECT entity_key FROM orders_shop_orders_tandem").fetchone()[0]
    db.execute("UPDATE orders_shop_orders_tandem SET revision = 9 WHERE entity_key = ?", (key,))
    value = Value(int64_val=9).SerializeToString()
    db.execute("UPDATE orders_shop_orders SET value = ? WHERE entity_key = ? AND feature_name = 'count_24h'", (value, key))
    db.commit()
    bad = compare_stores(world.repo(), world.feast())["shop_orders"]
    assert bad.causes == {"equal": 1, "unexplained": 1} and bad.lines == ["shop=1: other values are stored"]
    world.log([order("o1", "10:02")])
    world.batch(pinned=True)
    later = compare_stores(world.repo(), world.feast())["shop_orders"]
    assert later.unexplained == 0 and "run 'tandem materialize'" in later.notice
    world.materialize()
    assert compare_stores(world.repo(), world.feast())["shop_orders"].causes == {"equal": 1}


def test_runs_that_are_not_found_any_more_are_told_and_change_nothing(world: Orders) -> None:
    """FAULTS 12: the data folder was moved, and the settings follow: what the registry names is empty. ``verify --stores`` compared no key
    and was content; materialize forgot what it had covered."""
    world.log([order("o1", "10:02"), order("o2", "10:03", shop=2)])
    world.round()
    online = ordered_store(world.feast())
    before = {n: online.covered(world.feast().config, n) for n in ("shop_orders", "city_orders")}
    offline = world.data / "offline"
    offline.rename(world.data / "elsewhere")
    with pytest.raises(DataError, match=r"no view has rows .*, nothing was loaded; .*'tandem apply' .* the folder was moved"):
        world.materialize()
    assert {n: online.covered(world.feast().config, n) for n in before} == before and before["shop_orders"] is not None
    lost = compare_stores(world.repo(), world.feast())["shop_orders"]
    assert lost.unexplained == 2 and "stored keys: 2, and no run of the applied graph is at" in lost.lines[0]
    assert "; if that folder was moved, run 'tandem apply'" in lost.lines[0]
    (world.data / "elsewhere").rename(offline)
    world.materialize()
    assert compare_stores(world.repo(), world.feast())["shop_orders"].causes == {"equal": 2} and both(world) == (1, 1, 5.0)


@pytest.mark.parametrize("what", ["offline", "graphs"])
def test_what_a_run_made_and_is_gone_is_made_anew(world: Orders, what: str) -> None:
    """FAULTS 12 and 19: batch had nothing to do, and materialize, or apply, said to run batch: there was no way out."""
    world.log([order("o1", "10:02")])
    first = world.round()
    for path in (world.data / what).glob("shop_orders/*" + ("/tandem.json" if what == "graphs" else "")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = world.round()
    assert first != again and both(world) == (1, 1, 5.0)
    assert world.batch() == again


def test_a_materialization_that_ends_earlier_than_one_before_it(world: Orders) -> None:
    """What the one before wrote behind its end is right where the runs say so still, and to be materialized where they do not."""

    def compared() -> tuple[dict[str, int], int, str]:
        found = compare_stores(world.repo(), world.feast())["shop_orders"]
        return found.causes, found.extra, found.notice if "up to there" in found.notice else ""

    world.move_to(at("14:30"))
    world.log([order("o1", "10:02"), order("o2", "12:02", shop=2), order("o3", "12:03", shop=3)])
    world.round()
    assert compared() == ({"equal": 3}, 0, "")
    world.materialize(end=at("11:30"))
    assert compared() == ({"equal": 3}, 0, "")
    world.log([order("o1", "10:02"), order("o3", "12:03", shop=3), order("o4", "12:04", shop=3)])
    world.batch(pinned=True)
    world.materialize(end=at("11:30"))
    causes, extra, notice = compared()
    assert causes == {"equal": 1, "not materialized": 1} and extra == 0 and "run 'tandem materialize' up to there" in notice
    world.materialize()
    assert compared() == ({"equal": 2}, 0, "")


def test_a_ttl_shorter_than_a_window_is_said_and_never_is_possible(world: Orders) -> None:
    """FAULTS 25."""
    world.log([order("o1", "10:02")])
    world.move_to(at("14:00"))
    world.round()
    assert any(line.startswith("shop_orders: ttl 2h is shorter than its longest window 24h") for line in world.steps.lines)
    features = world.repo_path / "features.py"
    features.write_text(features.read_text().replace("ttl=hours(2)", "ttl=None"))
    sys.modules.pop("features")
    world.apply()
    assert both(world) == (0, 1, None)


def test_materialize_that_finds_nothing_says_why(world: Orders) -> None:
    """It advised a batch run where there was one: not applied, without rows, or with rows elsewhere."""

    def told(start: datetime = START, end: datetime = END) -> str:
        with pytest.raises(DataError, match="no view has rows") as none:
            world.materialize(start, end)
        assert "\n" not in str(none.value)
        return str(none.value).partition("nothing was loaded; ")[2]

    world.log([order("o1", "10:02")])
    run = world.batch()
    world.apply(run)
    assert told(START - timedelta(days=9), START - timedelta(days=8)) == "run 'tandem batch' over the range, and 'tandem apply'"
    assert told(START, at("09:00")).startswith(f"batch run {run} made rows (2024-05-01T00:00 to ")
    world.define(", max=1000")
    other = world.batch()
    world.apply(other)
    for folder in (world.data / "runs" / other, *(world.data / "offline").glob(f"*/run={other}")):
        shutil.rmtree(folder)
    assert told() == f"the graphs of batch run {run} are not applied: 'tandem apply' applies them"


def test_materialize_that_finds_nothing_names_the_run_that_has_rows_of_what_is_applied(world: Orders) -> None:
    """The newest run was asked alone, and rows of groups that nobody has applied were counted."""

    def told(start: datetime, end: datetime) -> str:
        with pytest.raises(DataError, match="no view has rows") as none:
            world.materialize(start, end)
        assert "\n" not in str(none.value)
        return str(none.value).partition("nothing was loaded; ")[2]

    world.move_to(END + timedelta(days=9))
    world.log([order("o1", "02:02")])
    first = world.batch(end=at("12:00"))
    world.apply(first)
    empty = END + timedelta(days=4)
    day = world.data / "events/orders/date=2024-05-06"
    day.mkdir()
    (day / "none.jsonl").touch()
    second = world.batch(empty, empty + timedelta(hours=12))
    assert second != first
    assert told(at("11:30"), empty + timedelta(hours=6)).startswith(f"batch run {first} made rows (2024-05-01T00:00 to 2024-05-01T12:00): ")
    assert told(empty, empty + timedelta(hours=6)).startswith(f"batch run {second} (2024-05-06T00:00 to 2024-05-06T12:00) made no row: ")

    manifest = world.data / "runs" / first / "manifest.json"
    said = json.loads(manifest.read_text())
    said["range"] = ["2024-05-01", "2024-05-01T12:00"]  # of whoever writes manifests without a zone
    manifest.write_text(json.dumps(said))
    assert told(START, at("01:00")).startswith(f"batch run {first} made rows (2024-05-01T00:00 to 2024-05-01T12:00): ")
    said["counts"]["rows/city_orders"] = 0
    manifest.write_text(json.dumps(said))
    (world.data / "graphs/shop_orders/CURRENT").unlink()
    assert told(START, at("01:00")) == (
        f"batch run {first} made rows of groups whose graphs are not applied (shop_orders): 'tandem apply' applies them"
    )


def test_a_clock_that_was_set_back_makes_no_materialization_older_than_its_runs(tmp_path: Path) -> None:
    """SECURITY M7: verify said for as long as the clock was behind that a newer run was not materialized, and took every difference for
    that."""
    world = Orders(tmp_path / "w")
    world.log([order("o1", "10:02"), order("o2", "10:04", shop=2)])
    world.round()
    for manifest in world.data.glob("runs/*/manifest.json"):  # as if all that was made by a clock that runs a day ahead
        said = json.loads(manifest.read_text())
        ahead = datetime.fromisoformat(said["created"]) + timedelta(days=1)
        manifest.write_text(json.dumps({**said, "created": ahead.isoformat()}))
    world.log([order("o1", "10:02")])
    world.round()
    proofs = compare_stores(world.repo(), world.feast())
    assert [proof.keys for proof in proofs.values()] == [1, 1] and not any("a newer run" in proof.notice for proof in proofs.values())
