"""``tandem verify``: an honest stream is explained to the last bit; every way of breaking one is found.

The stream here is the real intake, shards and delivery without Beam and Kafka (``pure_stream``), over real flights.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from pipelines.lake.row_compare import compare
from pipelines.streaming.state.job_state import JobState
from pipelines.verify import proof as proof_module
from pipelines.verify.stream_record import load_record
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.pure_stream import Hooks
from tests.integration.verify_world import BEGIN, END
from tests.whole_proof import Proof
from transforms.errors import DataError


def totals(proof: Proof) -> dict[str, int]:
    out: dict[str, int] = {}
    for g in proof.groups.values():
        rows = g.rows()
        out["compared"] = out.get("compared", 0) + rows["compared"]
        out["equal"] = out.get("equal", 0) + rows["equal"]
        for kind in ("different", "missing", "extra"):
            for cause, n in rows[kind].items():
                out[f"{kind}, {cause}"] = out.get(f"{kind}, {cause}", 0) + n
    return out


def test_an_honest_stream_is_explained_to_the_last_bit(plain, honest, expected):
    proof = plain.prove(honest, expected)
    found = totals(proof)
    assert proof.unexplained == 0 and proof.problems() == []
    assert set(found) == {"compared", "equal", "different, too late", "missing, too late", "missing, in flight"}
    assert found["equal"] > 2_000 and found["different, too late"] > 300
    assert sum(s.noted for s in proof.sources.values()) > 15


@pytest.mark.parametrize(("shards", "seed"), [(1, 1), (5, 2)])
def test_shards_and_polls_change_nothing(plain, expected, tmp_path, shards, seed):
    plain.stream(tmp_path / "stream", shards=shards, seed=seed)
    assert plain.prove(tmp_path / "stream", expected).problems() == []


def test_a_stream_that_has_not_read_all_is_in_flight(plain, expected, tmp_path):
    """The log goes further than the stream: each difference is what it has not read."""
    plain.stream(tmp_path / "stream", upto=0.8)
    proof = plain.prove(tmp_path / "stream", expected)
    assert proof.problems() == []
    found = totals(proof)
    assert found["missing, in flight"] > 300 and found["equal"] > 1_500


def test_a_batch_run_over_the_files_can_be_compared_with_instead(plain):
    """Without Kafka: the topics held each event of the files once, so what came too late is found by its content."""
    plain.stream(plain.world.data / "stream" / "main")
    run = plain.world.run(BEGIN, END + timedelta(hours=3), pinned=True).run
    options = VerifyOptions(against=run.id, online=False)
    result = run_verify(plain.world.repo(), options)
    assert result.verdict == "proven" and result.notices == [] and result.batch["run"] == run.id
    assert set(result.values["different"]) == {"too late"} and result.values["equal"] > 10_000
    path = plain.world.data / "events" / "departures" / "date=2013-01-06" / "part-0.parquet"
    before = path.read_bytes()
    try:
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.slice(table.num_rows // 2), path)
        result = run_verify(plain.world.repo(), options)
    finally:
        path.write_bytes(before)
    assert "date=2013-01-06/part-0.parquet changed since run" in result.notices[0]


def test_a_run_that_ends_before_the_stream_is_compared_as_far_as_it_goes(plain):
    """And one that begins after it: what the stream delivered of other times is neither extra nor unexplained."""
    plain.stream(plain.world.data / "stream" / "main")
    run = plain.world.run(BEGIN + timedelta(hours=3), END - timedelta(hours=9), pinned=True).run
    result = run_verify(plain.world.repo(), VerifyOptions(against=run.id, online=False))
    assert (result.verdict, result.unexplained, result.problems) == ("proven", 0, [])
    assert set(result.values["different"]) <= {"too late"} and result.values["equal"] > 3_000
    assert all(g["rows"]["extra"] == {} for g in result.groups.values())


@pytest.mark.parametrize("upto", [1.0, 0.6])
def test_a_killed_stream_is_taken_as_far_as_its_checkpoints_go(plain, expected, tmp_path, upto):
    """It delivered rows, and corrections of rows, after the last checkpoint that it saved."""
    saved: Counter[int] = Counter()

    def sometimes(progress):
        saved[progress["shard"]] += 1
        return progress if saved[progress["shard"]] <= 12 else {}

    plain.stream(tmp_path / "stream", Hooks(checkpoint=sometimes), upto=upto)
    record = load_record(tmp_path / "stream", "main", plain.world.repo().groups)
    assert record.ahead > 100
    proof = plain.prove(tmp_path / "stream", expected)
    assert proof.problems() == []
    assert totals(proof)["missing, in flight"] > 300


def test_a_stream_that_begins_anew_meanwhile_is_not_said_to_miss_rows(plain, monkeypatch):
    """Its row log is moved aside after the rows of the first group were compared."""
    folder = plain.world.data / "stream" / "anew"
    plain.stream(folder)
    run = plain.world.run(BEGIN, END, pinned=True).run
    options = VerifyOptions(name="anew", against=run.id, online=False, served=False)
    assert run_verify(plain.world.repo(), options).verdict == "proven"
    looks: list[object] = []

    def compare_and_reset(*args):
        found = compare(*args)
        if not looks:
            JobState(folder).clear_checkpoints()
        looks.append(found)
        return found

    monkeypatch.setattr(proof_module, "compare", compare_and_reset)
    with pytest.raises(DataError, match=r"^stream 'anew' began anew meanwhile, with another log; verify again$"):
        run_verify(plain.world.repo(), options)
    assert len(looks) > 1


def test_the_rows_of_one_group_are_in_memory_at_a_time(plain, monkeypatch):
    """What is kept of a group that was compared holds none of its rows: memory does not grow with the number of groups."""
    plain.stream(plain.world.data / "stream" / "main")
    run = plain.world.run(BEGIN, END, pinned=True).run
    seen: list[weakref.ref[object]] = []
    alive: list[int] = []

    def watched(*args):
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        found = compare(*args)
        seen.extend(weakref.ref(x) for x in (found, found.batch, found.stream))
        return found

    monkeypatch.setattr(proof_module, "compare", watched)
    result = run_verify(plain.world.repo(), VerifyOptions(against=run.id, online=False, served=False))
    assert result.verdict == "proven" and len(result.groups) > 1
    assert alive == [0] * len(result.groups)
