"""The folder that driver and workers of a streaming job share."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import pytest

from pipelines.streaming.stages.coders import decode_state, encode_state
from pipelines.streaming.state import checkpoint_records
from pipelines.streaming.state.checkpoint_records import FORMAT, is_stream
from pipelines.streaming.state.job_state import JobState
from transforms.errors import DataError, TandemError


def test_progress_comes_back_per_shard_and_is_replaced(tmp_path: Path) -> None:
    control = JobState(tmp_path / "main")
    assert control.load_checkpoints() == {}
    control.save_checkpoint(0, {"shard": 0, "output_watermark": {"g": 5}})
    control.save_checkpoint(11, {"shard": 11})
    control.save_checkpoint(0, {"shard": 0, "output_watermark": {"g": 6}})
    again = pickle.loads(pickle.dumps(control))
    assert again.load_checkpoints() == {0: {"shard": 0, "output_watermark": {"g": 6}}, 11: {"shard": 11}}
    assert not list((tmp_path / "main").rglob(".*")), "no unfinished file is left"
    again.clear_checkpoints()
    assert control.load_checkpoints() == {}


def test_after_a_power_loss_only_durable_progress_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = JobState(tmp_path)
    control.save_checkpoint(0, {"shard": 1}, durable=True)
    control.save_checkpoint(0, {"shard": 2})
    control.save_checkpoint(1, {"shard": 3})
    assert control.load_checkpoints() == {0: {"shard": 2}, 1: {"shard": 3}}
    for boot in ("another", ""):  # "": a system that does not tell its boots apart
        monkeypatch.setattr(checkpoint_records, "_BOOT", boot)
        assert control.load_checkpoints() == {0: {"shard": 1}}


def test_a_damaged_checkpoint_is_one_line_unless_a_durable_record_is_there(tmp_path: Path) -> None:
    control = JobState(tmp_path)
    control.save_checkpoint(3, {"shard": 1})
    path = tmp_path / "checkpoints" / "shard-0003.jsonl"
    for text in ("", "{", "[]", '{"boot": "x"}', '{"progress": 1, "boot": "x"}', '{"format": 2, "checkpoint": 1, "boot": "x"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"shard-0003\.jsonl is damaged") as error:
            control.load_checkpoints()
        assert "\n" not in str(error.value)
    control.save_checkpoint(3, {"shard": 2}, durable=True)
    path.write_text("")
    assert control.load_checkpoints() == {3: {"shard": 2}}


def test_a_torn_line_is_passed_over_and_the_file_stays_small(tmp_path: Path) -> None:
    control = JobState(tmp_path)
    path = tmp_path / "checkpoints" / "shard-0000.jsonl"
    control.save_checkpoint(0, {"shard": 1})
    with open(path, "ab") as out:
        out.write(b'{"boot": "x", "progress": {"n"')
    assert control.load_checkpoints() == {0: {"shard": 1}}
    for n in range(2, 3000):
        control.save_checkpoint(0, {"shard": n, "run": "x" * 200})
    assert control.load_checkpoints()[0]["shard"] == 2999
    assert path.stat().st_size < 300_000


def test_flags(tmp_path: Path) -> None:
    control, other = JobState(tmp_path), JobState(tmp_path)
    assert not control.requested("stop")
    other.request("stop")
    other.request("stop")
    assert control.requested("stop")
    assert not control.requested("resume")
    control.clear("stop")
    control.clear("stop")
    assert not other.requested("stop")
    with pytest.raises(ValueError, match="cannot be a file name"):
        control.request("../stop")


def test_the_first_failure_stays_until_the_job_begins_anew(tmp_path: Path) -> None:
    control = JobState(tmp_path)
    assert control.failure() is None
    control.fail("first\nreason")
    control.fail("second")
    assert control.failure() == "first reason"
    control.request("stop")
    control.report("shard-0", {"rows": 1})
    control.save_checkpoint(0, {"shard": 1})
    control.begin()
    assert (control.failure(), control.requested("stop"), control.reports()) == (None, False, {})
    assert control.load_checkpoints() == {0: {"shard": 1}}


def _talk(folder: Path, number: int) -> None:
    control = JobState(folder)
    for i in range(200):
        control.say(f"{number} {i} " + "x" * 200)
        control.save_checkpoint(0, {"shard": number, "shards": i})
        control.report("shard-0", {"from": number, "i": i})


def test_processes_that_write_at_once_never_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    control = JobState(tmp_path)
    talkers = [context.Process(target=_talk, args=(tmp_path, n)) for n in range(3)]
    for t in talkers:
        t.start()
    lines, place = [], 0
    while any(t.is_alive() for t in talkers):
        new, place = control.said(place)
        lines += new
        assert set(control.load_checkpoints().get(0, {"shard": 0, "shards": 0})) == {"shard", "shards"}
        assert set(control.reports().get("shard-0", {"at": 0, "from": 0, "i": 0})) == {"at", "from", "i"}
    for t in talkers:
        t.join()
        assert t.exitcode == 0
    lines += control.said(place)[0]
    assert lines == control.said()[0]
    assert len(lines) == 600
    assert {tuple(line.split()[1:3]) for line in lines} == {(str(n), str(i)) for n in range(3) for i in range(200)}
    assert all(line.split()[0].endswith("Z") for line in lines)


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    control = JobState(tmp_path)
    assert control.said() == ([], 0)
    control.say("one")
    with open(tmp_path / "events.log", "ab") as log:
        log.write(b"2026 tw")
    lines, place = control.said()
    assert [line.split(" ", 1)[1] for line in lines] == ["one"]
    with open(tmp_path / "events.log", "ab") as log:
        log.write(b"o\n")
    assert control.said(place)[0] == ["2026 two"]


def test_reports_are_what_was_reported_last(tmp_path: Path) -> None:
    control = JobState(tmp_path)
    control.report("poll-departures-0", {"lag": 3})
    control.report("poll-departures-0", {"lag": 2, "at": 1.5})
    assert control.reports() == {"poll-departures-0": {"lag": 2, "at": 1.5}}
    (tmp_path / "status" / "torn.json").write_text("{")
    assert list(control.reports()) == ["poll-departures-0"]
    assert json.loads((tmp_path / "status" / "poll-departures-0.json").read_text())["lag"] == 2


def test_a_stream_of_before_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    JobState(tmp_path).save_checkpoint(0, {"output_watermark": {"g": 5}}, durable=True)
    boot = json.loads((tmp_path / "checkpoints" / "shard-0000.jsonl").read_text().strip().splitlines()[-1])["boot"]
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "progress" / "durable").mkdir(parents=True)
    point = {"shard": 0, "emitted": {"g": 7}, "mark": ["main/0", 3]}
    record = json.dumps({"boot": boot, "saved": "2026-01-01T00:00:00.000000Z", "progress": point})
    for folder in ("progress", "progress/durable"):
        (tmp_path / folder / "shard-0000.jsonl").write_text(f"\n{record}\n")
    assert is_stream(tmp_path)
    old = JobState(tmp_path)
    expected = {0: {"shard": 0, "output_watermark": {"g": 7}, "generation": ["main/0", 3]}}
    assert old.load_checkpoints() == expected, "status and verify read it where it is"
    assert not (tmp_path / "checkpoints").exists()
    old.begin()
    assert old.load_checkpoints() == JobState(tmp_path).load_checkpoints() == expected
    assert not (tmp_path / "progress").exists()
    old.save_checkpoint(0, {"shard": 0, "output_watermark": {"g": 8}})
    assert JobState(tmp_path).load_checkpoints() == {0: {"shard": 0, "output_watermark": {"g": 8}}}


def test_a_checkpoint_of_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    state = JobState(tmp_path)
    state.save_checkpoint(0, {"shard": 1})
    path = tmp_path / "checkpoints" / "shard-0000.jsonl"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(DataError, match=r"of a newer Tandem \(format 99, this one knows 2\)"):
        state.load_checkpoints()


def test_beam_state_of_another_version_ends_the_job_with_one_line(tmp_path: Path) -> None:
    state = JobState(tmp_path)
    assert decode_state(encode_state(("token", 5)), state) == ("token", 5)
    for data in (pickle.dumps((b"token", {}, {}, {}, {}, ())), b"no pickle", pickle.dumps((1, "x"))):
        with pytest.raises(TandemError, match="another version of Tandem"):
            decode_state(data, state)
    assert "start without --from-savepoint" in str(state.failure())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_no_word_and_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = JobState(tmp_path)
    control.say("before")
    log, kept = tmp_path / "events.log", tmp_path / "kept"
    log.rename(kept)
    log.symlink_to("/dev/full")
    control.say("shard 0 waits: no space")
    control.say("shard 1 waits: no space")
    log.unlink()
    kept.rename(log)
    control.say("shard 0 goes on")
    said = [line.partition(" ")[2] for line in control.said()[0]]
    assert said == ["before", "shard 0 waits: no space", "shard 1 waits: no space", "shard 0 goes on"]
    assert capsys.readouterr().err.count("(not in events.log: No space left on device)") == 2
    control.report("poll", {"shard": 1})
    for path in (tmp_path / "status" / "poll.json", tmp_path / "fatal.json"):  # the unfinished files that take their places
        path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}").symlink_to("/dev/full")
    control.report("poll", {"shard": 2})
    assert control.reports()["poll"]["shard"] == 1
    control.fail("another graph was applied")
    assert control.failure() is None and "another graph was applied" in capsys.readouterr().err
    control.fail("another graph was applied")
    assert control.failure() == "another graph was applied"
