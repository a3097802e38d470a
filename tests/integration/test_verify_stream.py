"""``tandem verify`` of the real job (a broker in memory, Beam's direct runner, Feast's online store); honest, and broken on purpose."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines.cli.root import app
from pipelines.feature_store.online_sink import FeastStore
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.stream_world import events, make_stream_world
from transforms import aggregates, exact, fold, windows
from transforms.errors import ConfigError, DataError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    made = make_stream_world(folder / "world", poll_records=100)
    log = events(2000, 1)
    # Some come hours late: after every correction.
    late = [json.loads(e) for e in log[300:1500:60]]
    made.produce(log[:1000])
    # A stream that is behind folds what waits at once, so what it corrects is what it reads later: here by its next run.
    assert run_stream(made.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    made.produce([*log[1000:1800], *(json.dumps(e | {"fare": 99.5}).encode() for e in late), *log[1800:], b"no event"])
    return made


def test_an_honest_job_is_proven_and_reported(world):
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    done = CliRunner().invoke(app, ["verify", "--json", "--repo", str(world.path)])  # in this process, where the broker is
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["verdict"] == "proven" and result["problems"] == []
    assert result["values"]["equal"] > 3_000 and set(result["values"]["different"]) == {"too late"}
    assert result["sources"]["trips"]["events"] == 2020 and result["sources"]["trips"]["too_late"] >= 20
    assert sum(result["online"]["zones"]["causes"].values()) == 8
    assert max(int(r) for r in result["groups"]["zones"]["revisions"]) > 1  # disorder was corrected
    page = world.data / "verify"
    (page,) = page.glob("main-*/report.html")
    assert str(page) == result["page"] and "Proven" in page.read_text()
    assert not list(page.parent.glob("scratch*"))


def test_what_cannot_be_verified_is_one_line(world):
    with pytest.raises(DataError, match=r"there is no stream called 'other' below"):
        run_verify(world.repo(), VerifyOptions(name="other"))


@pytest.mark.parametrize("flags", [["--name", "other"], ["--name", "a/b"], ["--against", "batch-none"]], ids=" ".join)
def test_what_was_never_begun_is_no_failed_run(world, flags):
    before = sorted((world.data / "runs").iterdir())
    done = CliRunner().invoke(app, ["verify", "--repo", str(world.path), *flags])
    assert done.exit_code == 1 and isinstance(done.exception, (ConfigError, DataError))
    assert sorted((world.data / "runs").iterdir()) == before


def test_a_stream_that_is_damaged_is_a_failed_run(world, monkeypatch):
    def damaged(folder):
        raise DataError("checkpoints of shard 0 are damaged")

    monkeypatch.setattr(JobState, "load_checkpoint_records", damaged)
    before = set((world.data / "runs").iterdir())
    assert CliRunner().invoke(app, ["verify", "--repo", str(world.path)]).exit_code == 1
    (run,) = set((world.data / "runs").iterdir()) - before
    said = json.loads((run / "manifest.json").read_text())
    assert (said["kind"], said["status"], said["error"]) == ("verify", "failed", "checkpoints of shard 0 are damaged")


def broken_constant(monkeypatch):
    exactly = exact.to_float
    monkeypatch.setattr(exact, "to_float", lambda limbs, *origin: exactly(limbs, *origin) * (1 + 2**-52))


def at_range(number, change):
    """A Shard.fold_all to which the n-th range of records with events brings others."""
    original, count = fold.Shard.fold_all, itertools.count()

    def folded(self, taken):
        return original(self, [(span, change(events) if events and next(count) == number else events) for span, events in taken])

    return folded


def broken_drop(monkeypatch):
    monkeypatch.setattr(fold.Shard, "fold_all", at_range(1, lambda batches: {}))


def broken_double(monkeypatch):
    twice = lambda b: pa.Table.from_batches([b, b]).combine_chunks().to_batches()[0]  # noqa: E731
    monkeypatch.setattr(fold.Shard, "fold_all", at_range(1, lambda batches: {n: twice(b) for n, b in batches.items()}))


def broken_border(monkeypatch):
    """Every window is one hop too long."""

    def rows_of(key, tile_start, hop, overs, after, upto):
        rows = windows.rows_of(key, tile_start, hop, overs, after, upto)
        return replace(rows, spans={o: (np.maximum(lo - 1, 0), hi) for o, (lo, hi) in rows.spans.items()})

    monkeypatch.setattr(aggregates, "rows_of", rows_of)


def broken_writer(monkeypatch):
    """The store takes whatever comes last, and of one batch the older row, as one of Feast's own writers does."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    ordered = FeastStore.write

    def write(self, group, rows):
        keys = [c.name for c in self.views[group].entity_columns]
        table = pa.Table.from_batches([rows]).sort_by("event_timestamp")
        oldest = {tuple(row.values()): n for n, row in reversed(list(enumerate(table.select(keys).to_pylist())))}
        for key in oldest:
            entity = EntityKey(join_keys=keys, entity_values=[Value(string_val=v) for v in key])
            forget = f'DELETE FROM "{self.config.project}_{group}_tandem" WHERE entity_key = ?'
            self.online._get_conn(self.config).execute(forget, (self.online.entity_key(self.config, entity),))
        return ordered(self, group, table.take(pa.array(list(oldest.values()))).combine_chunks().to_batches()[0])

    monkeypatch.setattr(FeastStore, "write", write)


BROKEN = {
    "changed-constant": (broken_constant, "different rows that nothing explains"),
    "dropped-batch": (broken_drop, "rows that nothing explains"),
    "double-count": (broken_double, "different rows that nothing explains"),
    "off-by-one-border": (broken_border, "different rows that nothing explains"),
    "unordered-writer": (broken_writer, "have an unexpected row online"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_job_broken_underneath_is_found(world, monkeypatch, name):
    breaks, says = BROKEN[name]
    with monkeypatch.context() as patched:
        breaks(patched)
        assert run_stream(world.repo(), StreamOptions(name=name, runner="direct", until="latest"), lambda line: None)["code"] == 0
    result = run_verify(world.repo(), VerifyOptions(name=name))
    assert result.verdict == "unexplained"
    assert any(says in line for line in result.problems), result.problems
