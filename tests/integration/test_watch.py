"""The watch at work over commands that only pretend: rounds, retraining, alerts, status, metrics, and what a retraining reads."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.alerting import Webhook
from pipelines.project.config import AlertSettings
from pipelines.project.secrets import Secret
from pipelines.registry.alias_file import current
from pipelines.watch.event_days import EventDays, event_days
from pipelines.watch.job_metrics import JobMetrics, page
from pipelines.watch.observations import plan
from pipelines.watch.watch_job import Watch
from pipelines.watch.watch_status import intentions, status
from tests.integration.fake_tandem import MODEL, champion
from tests.integration.watch_world import BROKEN, CALM, DRIFT, SOURCE, Clock, InProcess, World, utc
from tests.webhook_server import WebhookServer


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC))


def watch(world: World, clock: Clock, **options: Any) -> tuple[Watch, list[str]]:
    said: list[str] = []
    return Watch(world.subject, InProcess(world), clock, said.append, **options), said


def test_quiet_days_only_look(world: World, clock: Clock) -> None:
    watcher, said = watch(world, clock)
    until = watcher.round()
    assert world.commands() == ["labels", "monitor"] and until <= clock.now + timedelta(minutes=1)
    clock.forward(minutes=59)
    watcher.round()
    assert len(world.commands()) == 2
    clock.forward(minutes=1)
    watcher.round()
    assert len(world.commands()) == 4 and not watcher.failed and not world.runs("retrain")
    assert len(said) == 2 and said[0].startswith("monitor of flights: ok")


def test_a_clock_that_is_set_back_stops_no_look(world: World, clock: Clock) -> None:
    """A look of next month, and its report, are no reason not to look for a month, and not to see what is found."""
    right = clock.now
    watcher, said = watch(world, clock)
    clock.forward(days=20)
    watcher.round()
    (report,) = (world.data / "monitor").glob("*/report.json")
    os.utime(report, (clock.now.timestamp(),) * 2)
    clock.now = right
    world.will_find(DRIFT)
    watcher.round()
    assert world.commands() == ["labels", "monitor", "labels", "monitor", "batch", "train", "promote"] and not watcher.failed
    assert any("drift" in line for line in said), said
    clock.forward(minutes=30)
    watcher.round()
    assert world.commands().count("monitor") == 2, "and no more of them than the schedule says"


def test_drift_becomes_a_new_champion_and_is_told(world: World, clock: Clock, tmp_path: Path) -> None:
    server = WebhookServer()
    server.up()
    watcher, _ = watch(world, clock, receiver=Webhook(AlertSettings(webhook=Secret(server.url))))
    world.will_find(DRIFT)
    watcher.round()
    assert world.commands() == ["labels", "monitor", "batch", "train", "promote"] and champion(world.data) == 2
    (run,) = world.runs("retrain")
    assert (run["status"], run["outcome"], run["version"], run["tries"]) == ("complete", "promoted", 2, 1)
    assert [t["name"] for t in run["triggers"]] == ["drift"]
    assert {r["parent"] for kind in ("batch", "train", "promote") for r in world.runs(kind)[-1:]} == {run["id"]}
    assert world.runs("train")[-1]["range"] == ["2013-01-03T00:00:00+00:00", "2013-01-13T00:00:00+00:00"]
    assert world.runs("batch")[-1]["range"] == [
        "2013-01-09T00:00:00+00:00",
        "2013-01-13T00:00:00+00:00",
    ]  # but for the last day, rows are there
    assert [(b["state"], b["title"]) for b in server.taken] == [
        ("firing", "flights: skew of view__temp failed"), ("event", "flights: retrained, version 2 promoted"),
    ]  # fmt: skip
    world.will_find({**CALM, "version": 2})
    for _ in range(30):
        clock.forward(hours=1)
        watcher.round()
    assert len(world.runs("retrain")) == 1 and (server.taken[-1]["state"], len(server.taken)) == ("resolved", 3)
    server.down()


def test_the_same_data_is_not_trained_on_again(world: World, clock: Clock) -> None:
    """The drift goes on whatever is trained, and each model is refused."""
    watcher, said = watch(world, clock)
    world.will_find(DRIFT)
    world.order("promote", "refused")
    for _ in range(60):
        watcher.round()
        clock.forward(hours=1)
    assert world.commands().count("train") == 1 and champion(world.data) == 1
    (run,) = world.runs("retrain")
    assert (run["outcome"], run["version"], run["detail"]) == ("refused", 2, "auc 0.60 is below 0.65")
    assert sum("already tried" in line for line in said) == 1  # said once
    world.add_day(date(2013, 1, 13))
    watcher.round()
    assert world.commands().count("train") == 2 and len(world.runs("retrain")) == 2


def test_a_model_that_is_not_blessed_ends_it_too(world: World, clock: Clock) -> None:
    watcher, _ = watch(world, clock)
    world.will_find(DRIFT)
    world.order("train", "not blessed")
    watcher.round()
    (run,) = world.runs("retrain")
    assert (run["status"], run["outcome"], run["detail"]) == ("complete", "not blessed", "worse than the base rate")
    assert "promote" not in world.commands() and not watcher.failed


def test_broken_data_is_not_learnt_from(world: World, clock: Clock) -> None:
    watcher, said = watch(world, clock)
    world.will_find(BROKEN)
    watcher.round()
    assert not world.runs("retrain") and any("looks broken (unit departures.dep_delay)" in line for line in said)
    world.will_find(DRIFT)  # it is fixed
    clock.forward(hours=1)
    watcher.round()
    assert len(world.runs("retrain")) == 1


def test_a_failed_step_is_tried_again_later_and_goes_on_there(world: World, clock: Clock) -> None:
    watcher, said = watch(world, clock)
    world.will_find(DRIFT)
    world.order("promote", "fail")
    watcher.round()
    assert world.commands()[-3:] == ["batch", "train", "promote"] and "tandem promote failed (exit code 1)" in watcher.failed[0]
    assert world.runs("retrain")[0]["status"] == "failed" and any("alert, firing: tandem retrain failed" in line for line in said)
    watcher.round()
    assert len([c for c in world.commands() if c == "promote"]) == 1  # not at once
    world.order("promote", None)
    clock.forward(minutes=31)
    watcher.round()
    assert world.commands().count("train") == 1  # its model is there
    (run,) = world.runs("retrain")
    assert (run["status"], run["outcome"], run["tries"]) == ("complete", "promoted", 2) and champion(world.data) == 2
    assert any("alert, resolved" in line for line in said)


def test_what_always_fails_is_left_alone(world: World, clock: Clock) -> None:
    watcher, said = watch(world, clock)
    world.will_find(DRIFT)
    world.order("batch", "fail")
    for _ in range(48):
        watcher.round()
        clock.forward(hours=1)
    assert world.commands().count("batch") == 3 and any("fix the cause" in line for line in said)


def test_a_monitor_that_cannot_run_is_told(world: World, clock: Clock) -> None:
    watcher, said = watch(world, clock)
    (world.data / "next_report.json").unlink()

    class Broken(InProcess):
        def run(self, words: Any) -> tuple[int, str]:
            return (1, "error: no log") if words[0] == "monitor" else super().run(words)

    watcher.commands = Broken(world)
    watcher.round()
    assert any("alert, firing: flights: the monitor could not run" in line for line in said)
    assert watcher.failed == ["tandem monitor wrote no report (exit code 1): error: no log"]
    world.will_find(CALM)
    watcher.commands = InProcess(world)
    clock.forward(hours=1)
    watcher.round()
    assert any("alert, resolved" in line for line in said)


def test_damaged_files_end_no_watch(world: World, clock: Clock) -> None:
    watcher, _ = watch(world, clock)
    aliases = world.data / "models" / MODEL / "ALIASES.json"
    kept = aliases.read_text()
    aliases.write_text("{")
    (world.data / "alerts").mkdir()
    (world.data / "alerts" / "alerts.db").write_text("no database at all, but long enough to be looked at as one")
    until = watcher.round()
    assert until > clock.now and len(watcher.failed) == 2
    assert "ALIASES.json is damaged" in watcher.failed[0] and watcher.failed[1].startswith("alerts: ")
    aliases.write_text(kept)
    (world.data / "alerts" / "alerts.db").unlink()
    watcher.round()
    assert world.commands() == ["labels", "monitor"] and len(watcher.failed) == 2


def test_a_training_by_hand_counts(world: World, clock: Clock) -> None:
    """Somebody trained on the same days: nothing new to learn, and nobody promotes their model for them."""
    InProcess(world).run(["train", "--start", "2013-01-03T00:00:00+00:00", "--end", "2013-01-13T00:00:00+00:00"])
    watcher, said = watch(world, clock)
    world.will_find(DRIFT)
    watcher.round()
    assert world.commands().count("train") == 1 and not world.runs("retrain") and champion(world.data) == 1
    assert any("already trained on the data up to 2013-01-13" in line for line in said)


def test_status_and_metrics(world: World, clock: Clock) -> None:
    watcher, _ = watch(world, clock)
    world.will_find(DRIFT)
    watcher.round()
    found = status(world.subject, clock.now)
    assert json.dumps(found, default=str)
    model = found["models"][MODEL]
    assert (model["champion"], model["verdict"], model["triggers"]) == (2, "fail", {})  # the drift was version 1's
    assert [r["outcome"] for r in found["retrainings"]] == ["promoted"] and len(found["alerts"]["firing"]) == 1
    text = page(JobMetrics(world.data, lambda: watcher.known)).decode()
    for line in (
        'tandem_alias_version{alias="champion",model="flights"} 2.0',
        'tandem_watch_retrainings{model="flights",outcome="promoted"} 1.0',
        'tandem_monitor_check_value{check="skew",feature="view__temp",model="flights"} 0.4',
        'tandem_monitor_check_status{check="skew",feature="view__temp",model="flights"} 2.0',
        'tandem_monitor_verdict{model="flights"} 2.0',
        'tandem_watch_trigger{model="flights",trigger="drift"} 0.0',
        'tandem_alerts_firing{severity="fail"} 1.0',
        'tandem_run_last_failed{kind="retrain"} 0.0',
    ):
        assert line in text.splitlines()


def span(data: Path, now: datetime) -> tuple[datetime, datetime] | None:
    found = event_days(data, [SOURCE], now)
    return None if found is None else (found.first, found.end)


def test_days_of_events(tmp_path: Path) -> None:
    now = utc("2013-01-20T06:00:00")
    assert span(tmp_path, now) is None
    world = World(tmp_path, days=12)
    assert span(world.data, now) == (utc("2013-01-01"), utc("2013-01-13"))
    assert span(world.data, utc("2013-01-12T23:00:00")) == (utc("2013-01-01"), utc("2013-01-12"))  # today is not whole
    (world.data / "events" / "departures" / "date=2013-01-15").mkdir()  # empty
    (world.data / "events" / "departures" / "date=soon").mkdir()
    assert span(world.data, now) == (utc("2013-01-01"), utc("2013-01-13"))


def test_files_without_days_reach_as_far_as_their_events(tmp_path: Path) -> None:
    """FAULTS 23: a history that ended years ago has no thousands of days of new data."""
    folder = tmp_path / "events" / "departures"
    folder.mkdir(parents=True)
    (folder / "all.jsonl").write_text("{}\n")
    now = utc("2013-01-20T06:00:00")
    assert span(tmp_path, now) is None
    (folder / "all.jsonl").write_text('{"id": "a", "at": "2002-08-01T10:00:00Z"}\n{"id": "b", "at": "2002-08-03T23:59:59Z"}\n{}\n')
    assert span(tmp_path, now) == (utc("2002-08-01"), utc("2002-08-04"))
    (folder / "more.jsonl").write_text('{"id": "c", "at": "2002-08-05T01:00:00Z"}\n{"id": "d", "at": "2013-01-20T01:00:00Z"}\n')
    assert span(tmp_path, now) == (utc("2002-08-01"), utc("2002-08-06"))
    assert span(tmp_path, utc("2002-08-05T23:00:00")) == (utc("2002-08-01"), utc("2002-08-04"))  # today is not whole
    (folder / "more.jsonl").unlink()
    assert span(tmp_path, now) == (utc("2002-08-01"), utc("2002-08-04"))


def test_promotion_is_asked_for(tmp_path: Path, clock: Clock) -> None:
    """FAULTS 23: unconfigured, the watch trains and pushes; who is served stays a person's decision, and the run says how."""
    world = World(tmp_path, promotes=False)
    world.will_find(DRIFT)
    watcher, _ = watch(world, clock)
    watcher.round()
    assert world.commands() == ["labels", "monitor", "batch", "train"] and champion(world.data) == 1
    (run,) = world.runs("retrain")
    assert (run["status"], run["outcome"], run["version"]) == ("complete", "pushed", 2)
    assert "'tandem promote --model flights --version 2' evaluates it" in run["detail"]
    assert "tandem watch, drift: view__temp drifted" in json.dumps(current(world.data / "models" / MODEL).history[-1])
    watcher.round()
    assert world.commands().count("train") == 1


def test_a_version_that_waits_for_a_person_is_not_overtaken_each_day(tmp_path: Path, clock: Clock) -> None:
    """FAULTS 23: nobody promotes it, the drift goes on, and each day brings events: one training in the days of ``new_days``, not seven."""
    world = World(tmp_path, promotes=False)
    world.will_find(DRIFT)
    watcher, said = watch(world, clock)
    for day in range(13, 20):
        watcher.round()
        clock.forward(days=1)
        world.add_day(date(2013, 1, day))
    assert world.commands().count("train") == 1
    assert any("version 2, trained before, waits for 'tandem promote', or for 6 more days of events" in line for line in said), said
    watcher.round()
    assert world.commands().count("train") == 2 and current(world.data / "models" / MODEL).challenger == 3


def test_what_was_found_before_the_monitor_failed_is_no_reason(world: World, clock: Clock) -> None:
    """FAULTS 23: the newest report may be years old; where the monitor cannot run now, nobody is trained for what it said then."""
    world.will_find(DRIFT)
    InProcess(world).run(["monitor", "--model", MODEL])
    watcher, _ = watch(world, clock)

    class Broken(InProcess):
        def run(self, words: Any) -> tuple[int, str]:
            return (1, "error: no log") if words[0] == "monitor" else super().run(words)

    watcher.commands = Broken(world)
    watcher.round()
    assert not world.runs("retrain") and "train" not in world.commands()
    assert status(world.subject, clock.now)["models"][MODEL]["triggers"] == {}
    watcher.commands = InProcess(world)
    clock.forward(hours=1)
    watcher.round()
    assert world.commands().count("train") == 1


def test_a_champion_of_unknown_age_is_not_old(world: World, clock: Clock) -> None:
    """FAULTS 23: a version that says no day was 20,000 days old, and trained at the first look."""
    spec = world.data / "models" / MODEL / "1" / "tandem.json"
    spec.write_text(json.dumps({k: v for k, v in json.loads(spec.read_text()).items() if k != "created"}))
    watcher, _ = watch(world, clock)
    watcher.round()
    assert world.commands() == ["labels", "monitor"] and status(world.subject, clock.now)["models"][MODEL]["triggers"] == {}


def test_days_are_counted_that_have_events(world: World, clock: Clock) -> None:
    """FAULTS 23: one event of a clock that was years ahead, or empty folders, made thousands of days new; and years were trained on."""
    world.add_day(date(2016, 1, 1))
    for day in range(16, 29):
        world.add_day(date(2013, 1, day), events=0)
    watcher, _ = watch(world, clock)
    watcher.round()
    assert world.commands() == ["labels", "monitor"] and not world.runs("retrain")
    for day in range(13, 16):
        world.add_day(date(2013, 1, day))
    world.add_day(date(2013, 1, 29))  # with three before: seven
    clock.forward(hours=1)
    watcher.round()
    (run,) = world.runs("retrain")
    assert [t["why"] for t in run["triggers"]] == ["7 days of events since version 1 was trained"]
    assert world.runs("train")[-1]["range"] == ["2013-01-03T00:00:00+00:00", "2013-01-30T00:00:00+00:00"]


def test_as_of_an_earlier_time_nothing_later_is_trained_on(tmp_path: Path, clock: Clock) -> None:
    """FAULTS 23: over history, what lies after the moment that is asked for is no new data."""
    world = World(tmp_path, days=25)
    watcher, _ = watch(world, clock, as_of="2013-01-12T06:00:00Z")
    watcher.round()
    assert world.commands() == ["labels", "monitor"]
    assert intentions(world.subject, clock(), "2013-01-12T06:00:00Z")[MODEL][-1] == "not retrain, unless the monitor finds a reason"
    assert intentions(world.subject, clock())[MODEL][-2].startswith("retrain on 2013-01-03 to 2013-01-26, as new_data: 16 days")
    watcher, _ = watch(world, clock, as_of="2013-01-19")
    clock.forward(hours=1)
    watcher.round()
    assert world.runs("train")[-1]["range"] == ["2013-01-03T00:00:00+00:00", "2013-01-19T00:00:00+00:00"]


def test_the_history_says_why_and_a_dry_run_does_nothing(world: World, clock: Clock) -> None:
    """FAULTS 23: what the watch would do, in words; a promotion of the watch bears its triggers."""
    world.will_find(DRIFT)
    watcher, _ = watch(world, clock)
    before = sorted(p for p in world.root.rglob("*") if p.is_file())
    assert intentions(world.subject, clock())[MODEL][-1] == "not retrain, unless the monitor finds a reason"
    assert sorted(p for p in world.root.rglob("*") if p.is_file()) == before and world.commands() == []
    watcher.round()
    assert champion(world.data) == 2
    entry = current(world.data / "models" / MODEL).history[-1]
    assert entry["reason"] == "tandem watch, drift: view__temp drifted" and entry["by"]


@pytest.mark.parametrize(
    ("train_days", "graph", "batch_start", "train_start"),
    [
        (None, "f", "2013-01-09", "2013-01-03"),  # rows are there up to the 10th; the 9th is made again for late events
        (4, "f", "2013-01-09", "2013-01-09"),
        (100, "f", "2013-01-09", "2013-01-01"),
        (None, "e", "2013-01-01", "2013-01-03"),  # rows of another graph are of no use
    ],
)
def test_what_is_read(world: World, train_days: float | None, graph: str, batch_start: str, train_start: str) -> None:
    from pipelines.lake.runs import list_runs

    days = EventDays(utc("2013-01-01"), utc("2013-01-13"), tuple(range(15706, 15718)))
    found = plan(world.data, MODEL, days, list_runs(world.data), {"view": graph * 64}, train_days, 7)
    assert (found.batch_start, found.train_start, found.end) == (utc(batch_start), utc(train_start), days.end)


def test_days_to_train_on_are_days_with_events(world: World) -> None:
    """FAULTS 23: by the calendar, sixty days up to a last one that stands alone were one event."""
    days = EventDays(utc("2013-01-01"), utc("2013-06-02"), (*range(15706, 15718), 15857))
    assert plan(world.data, MODEL, days, [], {}, 5, 0).train_start == utc("2013-01-09")
    assert plan(world.data, MODEL, days, [], {}, 4.5, 0).train_start == utc("2013-01-09")
    assert plan(world.data, MODEL, days, [], {}, 1, 0).train_start == utc("2013-06-01")


def test_a_challenger_that_nobody_knows_waits_for_nobody(tmp_path: Path, clock: Clock) -> None:
    """FAULTS 23: where the record of its training is gone it had missed 0 days, for ever, and no drift trained again."""
    world = World(tmp_path, promotes=False)
    world.will_find(DRIFT)
    watcher, _ = watch(world, clock)
    watcher.round()
    assert current(world.data / "models" / MODEL).challenger == 2 and world.commands().count("train") == 1
    gone = [r["run"] if "run" in r else r["id"] for r in world.runs("train")][-1]
    shutil.rmtree(world.data / "runs" / gone)
    for day in range(13, 15):
        world.add_day(date(2013, 1, day))
    clock.forward(days=2)
    watcher.round()
    assert world.commands().count("train") == 2 and current(world.data / "models" / MODEL).challenger == 3
