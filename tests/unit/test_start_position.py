"""Where a stream starts: checkpoints, batch runs, redefinitions, another number of shards."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.start_position import choose_start
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes
from transforms.errors import ConfigError, DataError
from transforms.lateness import NEVER

SOURCE = EventSource(
    name="s", fields=[Field("k", "string", required=True)], event_time="at", tie_breaker="k",
    out_of_orderness=minutes(1), allowed_lateness=hours(1), topic="s",
)  # fmt: skip
END = 1_700_000_100_000_000


def group(name="g", over=1):
    return FeatureGroup(name=name, source=SOURCE, entity=Entity("k"), hop=minutes(5), ttl=hours(9), aggregates=[Count(over=hours(over))])


@pytest.fixture
def repo(tmp_path):
    return SimpleNamespace(data=tmp_path, groups={"g": group()})


@pytest.fixture
def control(tmp_path):
    return JobState(tmp_path / "stream" / "main")


def point(shard, next_, needed, shards=2, run=None, output_watermark=7):
    at = {"next": next_, "newest": next_, "needed": needed, "needed_newest": needed}
    return {
        "shard": shard, "shards": shards, "output_watermark": {"g": output_watermark}, "watermark": {}, "partitions": {"s": {"0": at}},
        "topics": {"s": "id"}, "run": run, "fingerprints": {"g": group().definition_hash()},
    }  # fmt: skip


def save(control, *points):
    for each in points:
        control.save_checkpoint(each["shard"], each)


def batch(repo, run_id="batch-1", groups=None, **manifest):
    folder = repo.data / "runs" / run_id
    folder.mkdir(parents=True)
    made = {n: json.loads(json.dumps(g.canonical())) for n, g in (groups or repo.groups).items()}
    whole = {
        "id": run_id, "kind": "batch", "status": "complete", "created": run_id, "definitions": made,
        "tiles": {"end_us": END, "shards": 1}, "range": ["2023-11-01T00:00:00+00:00", "2023-11-14T22:15:00+00:00"], **manifest,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(whole))
    return folder


def test_without_anything_it_is_the_beginning(repo, control):
    start = choose_start(repo, control, 2)
    assert (start.why, start.begin, start.run, dict(start.offsets)) == ("the beginning of the topics", NEVER, None, {})


def test_the_least_of_the_shards_checkpoints(repo, control):
    save(control, point(0, 50, 20, output_watermark=9), point(1, 40, 30))
    start = choose_start(repo, control, 2)
    assert "checkpoint" in start.why
    assert start.offsets == {"s": {0: (20, 20)}} and start.done == {"s": {0: 40}} and start.output_watermark == {"g": 7}


def test_a_shard_without_one_starts_all_anew(repo, control):
    save(control, point(0, 50, 20))
    assert choose_start(repo, control, 2).offsets == {}
    assert control.load_checkpoints() == {}


def test_after_a_batch_run(repo, control):
    folder = batch(repo)
    for name in ("latest", "batch-1"):
        start = choose_start(repo, control, 2, name)
        assert (start.begin, start.run) == (END, str(folder))
        assert start.output_watermark == {"g": END - END % 300_000_000}
        assert "batch-1, 2023-11-14 22:15" in start.why


def test_the_checkpoint_goes_before_latest_but_not_before_another_run(repo, control):
    first = batch(repo)
    save(control, point(0, 50, 20, run=str(first)), point(1, 50, 20, run=str(first)))
    assert "checkpoint" in choose_start(repo, control, 2, "latest").why
    start = choose_start(repo, control, 2, "batch-1")
    assert "checkpoint" in start.why and start.begin == END, "the same run: nothing is forgotten"
    batch(repo, "batch-2")
    assert "checkpoint" in choose_start(repo, control, 2, "latest").why
    assert "batch-2" in choose_start(repo, control, 2, "batch-2").why
    assert control.load_checkpoints() == {}


def test_anew_forgets(repo, control):
    save(control, point(0, 50, 20, shards=1))
    assert choose_start(repo, control, 1, reset=True).offsets == {}


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ({"g": group(over=2)}, "'g' was redefined"),
        ({"g": group(), "h": group("h")}, "'h' was added"),
        ({"h": group("h")}, "was (added|removed)"),
    ],
)
def test_other_definitions_cannot_go_on(repo, control, groups, line):
    save(control, point(0, 50, 20, shards=1))
    repo.groups = groups
    with pytest.raises(DataError, match=f"{line}.*--reset"):
        choose_start(repo, control, 1)
    assert control.load_checkpoints(), "nothing is forgotten"


def test_runs_that_do_not_fit(repo, control):
    with pytest.raises(ConfigError, match="no complete batch run"):
        choose_start(repo, control, 1, "latest")
    batch(repo, "batch-1", {"g": group(over=3)})
    with pytest.raises(DataError, match="'g' was redefined since"):
        choose_start(repo, control, 1, "batch-1")
    batch(repo, "batch-2", status="failed")
    with pytest.raises(DataError, match="name a complete batch run"):
        choose_start(repo, control, 1, "batch-2")
    save(control, point(0, 5, 5, shards=1, run=str(repo.data / "runs" / "gone")))
    with pytest.raises(DataError, match="began from a batch run that is gone"):
        choose_start(repo, control, 1)


@pytest.mark.parametrize(("before", "after"), [(2, 5), (5, 2), (3, 1)])
def test_another_number_of_shards_even_killed_in_between(repo, control, before, after, monkeypatch):
    class Killed(Exception):
        pass

    save(control, *(point(n, 50 + n, 20 + n, shards=before) for n in range(before)))
    real, left = JobState.save_checkpoint, [0]

    def save_some(self, *args, **more):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(self, *args, **more)

    monkeypatch.setattr(JobState, "save_checkpoint", save_some)
    for survived in range(max(before, after)):
        left[0] = survived
        with pytest.raises(Killed):
            choose_start(repo, control, after)
    left[0] = 99
    start = choose_start(repo, control, after)
    assert start.offsets == {"s": {0: (20, 20)}} and start.done == {"s": {0: 50}}
    saved = control.load_checkpoints()
    assert sorted(saved) == list(range(after))
    assert all(p["shards"] == after and p["partitions"]["s"]["0"]["needed"] == 20 for p in saved.values())
