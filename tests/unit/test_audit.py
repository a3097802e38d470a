"""The audit log: every entry is chained to the one before, kills leave a log that goes on, and tampering is found."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import resource
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.lake import layout
from pipelines.lake.audit import AuditLog, user
from tests.examples import examples
from transforms.errors import ConfigError, DataError

NOW = datetime(2024, 5, 1, tzinfo=UTC)


def filled(folder: Path, n: int = 5) -> AuditLog:
    log = AuditLog(folder / "audit")
    for k in range(n):
        log.append(NOW + timedelta(minutes=k), {"action": "promote", "subject": f"m{k}", "why": "it is better", "outcome": "done"})
    return log


def lines(log: AuditLog) -> list[bytes]:
    return log.file.read_bytes().splitlines(keepends=True)


def test_entries_are_read_back_in_order_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    log = filled(tmp_path)
    found = log.check()
    assert not found.problem and [e.n for e in found.entries] == [1, 2, 3, 4, 5]
    assert found.entries[0].who == user() == pwd.getpwuid(os.getuid()).pw_name and found.entries[0].why == "it is better"
    assert log.file.stat().st_mode & 0o777 == 0o600 == log.head.stat().st_mode & 0o777
    assert AuditLog(tmp_path / "none").check().entries == []


def chained(folder: Path, *entries: dict[str, object]) -> AuditLog:
    """A log of these entries as 0.1 wrote one, without a format, HEAD and all; by other code than the product's."""
    log, before, line = AuditLog(folder / "audit"), "0" * 64, b""
    log.folder.mkdir(parents=True)
    for n, said in enumerate(entries, 1):
        entry = {"n": n, "at": NOW.isoformat(), "who": "ann", "host": "here", **said, "before": before}
        before = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
        line += json.dumps({**entry, "hash": before}, sort_keys=True).encode() + b"\n"
    log.file.write_bytes(line)
    log.head.write_text(json.dumps({"n": len(entries), "hash": before}) + "\n")
    return log


def test_a_log_of_before_there_was_a_format_is_whole_and_goes_on(tmp_path: Path) -> None:
    log = chained(tmp_path, {"action": "promote", "outcome": "begun", "champion": 3}, {"action": "promote", "outcome": "done", "of": 1})
    kept = log.file.read_bytes()
    found = log.check()
    assert not found.problem and [(e.who, e.outcome, e.of, e.format, e.details) for e in found.entries] == [
        ("ann", "begun", None, 1, {"champion": 3}),
        ("ann", "done", 1, 1, {}),
    ]
    assert log.append(NOW, {"action": "apply"}).to_dict()["format"] == 1
    assert log.file.read_bytes().startswith(kept) and not log.check().problem
    assert [e.to_dict() for e in log.check().entries] == [json.loads(line) for line in lines(log)]


def test_an_entry_of_a_newer_tandem_is_refused_in_a_line(tmp_path: Path) -> None:
    log = chained(tmp_path, {"action": "apply"}, {"action": "apply", "format": 2})
    said = "entry 2 is of a newer Tandem (format 2, this one knows 1), or was changed; use that one"
    assert log.check().problem == f"line 2: {said}" and len(log.check().entries) == 1
    with pytest.raises(DataError) as error:
        log.append(NOW, {"action": "apply"})
    assert str(error.value) == f"{log.file}: {said}"


def test_who_is_the_processs_user_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert user() == pwd.getpwuid(os.getuid()).pw_name


def rewritten(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}, sort_keys=True).encode() + b"\n"


def write(log: AuditLog, parts: list[bytes]) -> None:
    log.file.write_bytes(b"".join(parts))


def cut(log: AuditLog, parts: list[bytes], head: dict[str, object] | None) -> None:
    """What is left of a log, and its HEAD made anew (None: gone)."""
    write(log, parts)
    if head is None:
        log.head.unlink()
    else:
        log.head.write_text(json.dumps(head))


TAMPERING: dict[str, Callable[[AuditLog, list[bytes]], object]] = {
    "a reason": lambda log, all_: write(log, [*all_[:2], rewritten(all_[2], why="no reason"), *all_[3:]]),
    "a name in the first": lambda log, all_: write(log, [rewritten(all_[0], who="mallory"), *all_[1:]]),
    "the last entry": lambda log, all_: write(log, [*all_[:4], rewritten(all_[4], outcome="denied")]),
    "one removed": lambda log, all_: write(log, [*all_[:1], *all_[2:]]),
    "the first removed": lambda log, all_: write(log, all_[1:]),
    "two swapped": lambda log, all_: write(log, [all_[0], all_[2], all_[1], *all_[3:]]),
    "one twice": lambda log, all_: write(log, [*all_[:3], all_[2], *all_[3:]]),
    "the last two removed": lambda log, all_: write(log, all_[:3]),
    "the end cut off": lambda log, all_: write(log, all_[:2]),
    "a line of noise": lambda log, all_: write(log, [*all_[:2], b"noise\n", *all_[2:]]),
    "all gone": lambda log, all_: log.file.unlink(),
    "emptied": lambda log, all_: write(log, []),
    "a reason beside the true one": lambda log, all_: write(log, [*all_[:2], b'{"why": "no reason", ' + all_[2][1:], *all_[3:]]),
    "the true reason behind another": lambda log, all_: write(log, [all_[0].replace(b'"who"', b'"why": "x", "who"', 1), *all_[1:]]),
    "HEAD gone": lambda log, all_: log.head.unlink(),
    "HEAD gone, and all but the first": lambda log, all_: cut(log, all_[:1], None),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found(tmp_path: Path, how: str) -> None:
    log = filled(tmp_path)
    TAMPERING[how](log, lines(log))
    assert log.check().problem


def test_a_chain_computed_anew_is_found_where_there_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key that the attacker has not")
    log = filled(tmp_path, 2)
    assert not log.check().problem
    monkeypatch.delenv("TANDEM_AUDIT_KEY")
    forged = filled(tmp_path / "forged", 2)
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key that the attacker has not")
    assert "was changed" in forged.check().problem


CUTS: dict[str, Callable[[AuditLog, list[bytes], list[bytes]], object]] = {
    "without a seal": lambda log, all_, heads: log.head.write_text(json.dumps({k: json.loads(heads[2])[k] for k in ("n", "hash")})),
    "with the seal of another": lambda log, all_, heads: log.head.write_text(
        json.dumps({**json.loads(heads[2]), "seal": json.loads(heads[4])["seal"]})
    ),
    "with an entry's hash for a seal": lambda log, all_, heads: log.head.write_text(
        json.dumps({"n": 3, "hash": json.loads(all_[2])["hash"], "seal": json.loads(all_[2])["hash"]})
    ),
    "of no entry, and one left": lambda log, all_, heads: cut(log, all_[:1], {"n": 0, "hash": "0" * 64}),
    "and the next one is torn": lambda log, all_, heads: cut(log, [*all_[:3], all_[3][:40]], {"n": 3, "hash": json.loads(all_[2])["hash"]}),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_head_made_anew_for_an_end_that_was_cut_off_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """HEAD was not under the key: whoever cut off entries wrote the one of before, and nothing told."""
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key that the attacker has not")
    log, heads = AuditLog(tmp_path / "audit"), []
    for k in range(5):
        log.append(NOW, {"action": "apply", "outcome": "done", "k": k})
        heads.append(log.head.read_bytes())
    assert not log.check().problem
    all_ = lines(log)
    write(log, all_[:3])
    CUTS[how](log, all_, heads)
    assert "sealed" in log.check().problem
    with pytest.raises(DataError, match="sealed"):
        log.append(NOW, {"action": "apply"})


def test_a_log_of_before_goes_on_under_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its HEAD nor, after a kill in between, that of the first entry with a seal has one."""
    log = filled(tmp_path, 2)
    head = log.head.read_bytes()
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key")
    log.append(NOW, {"action": "apply", "outcome": "done"})
    log.head.write_bytes(head)
    log.append(NOW, {"action": "apply", "outcome": "done"})
    assert json.loads(log.head.read_text())["seal"] and json.loads(log.witness.read_text())["seal"]


@pytest.mark.parametrize("entries", [1, 2])
@pytest.mark.parametrize("known", [0, 1])
def test_a_witness_of_before_goes_on_under_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int, known: int) -> None:
    """Of a log that an older version went on with, too."""
    log = filled(tmp_path, 1)
    told = {0: log.witness.read_text(), 1: json.dumps({"n": 1, "hash": json.loads(lines(log)[0])["hash"]})}[known]
    for _ in range(entries - 1):
        log.append(NOW, {"action": "apply"})
    log.witness.write_text(told)
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key")
    for _ in range(2):
        log.append(NOW, {"action": "apply"})
    assert json.loads(log.witness.read_text())["n"] == entries + 2


def test_a_log_of_one_entry_that_is_removed_is_missed(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    put(log, None)
    assert "names entry 1" in log.check().problem
    with pytest.raises(DataError, match="put the log back"):
        log.append(NOW, {"action": "apply"})


def test_an_empty_key_file_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(" \n")
    monkeypatch.setenv("TANDEM_AUDIT_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ConfigError, match="is empty"):
        AuditLog(tmp_path / "audit").append(NOW, {"action": "apply"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(cut=st.integers(1, 400), more=st.integers(0, 2))
def test_a_tail_torn_by_a_kill_is_no_tampering_and_the_log_goes_on(tmp_path: Path, cut: int, more: int) -> None:
    """A kill within the write leaves a part of a line, and HEAD and witness at the entry before."""
    folder = tmp_path / f"{cut}-{more}"
    log = filled(folder, 3) if not folder.exists() else AuditLog(folder / "audit")
    head, witness = log.head.read_bytes(), log.witness.read_bytes()
    log.append(NOW, {"action": "apply", "outcome": "begun"})
    whole = log.file.read_bytes()
    size = len(lines(log)[-1])
    log.file.write_bytes(whole[: len(whole) - min(cut, size)])
    log.head.write_bytes(head)
    log.witness.write_bytes(witness)
    found = log.check()
    assert not found.problem, found.problem
    before = len(found.entries)
    for k in range(more):
        log.append(NOW, {"action": "apply", "outcome": "done", "k": k})
    again = log.check()
    assert not again.problem, again.problem
    assert len(again.entries) == before + more


@pytest.mark.parametrize("entries", [0, 3])
@pytest.mark.parametrize("behind", [("head", "witness"), ("witness",)], ids=["HEAD", "the witness"])
def test_a_kill_between_what_is_written_is_no_tampering(tmp_path: Path, behind: tuple[str, ...], entries: int) -> None:
    """The entry, then HEAD, then the witness."""
    log = filled(tmp_path, max(entries, 1))
    if not entries:  # a log that has none yet
        shutil.rmtree(log.folder)
        log.witness.unlink()
        log.folder.mkdir()
        log._write(log.head, 0, "0" * 64)
    files = [file for name in behind if (file := getattr(log, name)).exists()]
    before = [file.read_bytes() for file in files]
    log.append(NOW, {"action": "apply", "outcome": "done"})
    for file, data in zip(files, before, strict=True):
        file.write_bytes(data)
    if not entries:
        log.witness.unlink()
    assert not log.check().problem
    log.append(NOW, {"action": "apply", "outcome": "done"})
    assert not log.check().problem and len(log.check().entries) == entries + 2


def test_a_kill_between_an_entry_behind_a_torn_line_and_head_is_no_tampering(tmp_path: Path) -> None:
    """HEAD names the entry before the torn line, which is not the line before the last one."""
    log = filled(tmp_path, 3)
    with open(log.file, "ab") as out:
        out.write(b'{"action": "app')
    head = log.head.read_bytes()
    log.append(NOW, {"action": "apply", "outcome": "begun"})
    log.head.write_bytes(head)
    assert not log.check().problem
    for _ in range(2):
        log.append(NOW, {"action": "apply", "outcome": "done"})
    found = log.check()
    assert not found.problem and found.torn == 1 and len(found.entries) == 6


def test_nothing_is_added_to_a_log_whose_end_is_gone(tmp_path: Path) -> None:
    log = filled(tmp_path)
    write(log, lines(log)[:2])
    with pytest.raises(DataError, match="its end was cut off or replaced"):
        log.append(NOW, {"action": "apply"})


def put(log: AuditLog, other: Path | None) -> None:
    """Another folder in the place of the log's, or none."""
    shutil.rmtree(log.folder)
    if other is not None:
        shutil.copytree(other, log.folder)


def removed_and_more(log: AuditLog, old: Path) -> None:
    put(log, None)
    log.witness.write_text("{")


OTHERS: dict[str, Callable[[AuditLog, Path], None]] = {
    "removed": lambda log, old: put(log, None),
    "put back as it was": put,
    "begun anew, and longer": lambda log, old: put(log, filled(old.parent / "x", 9).folder),
    "and the witness damaged": removed_and_more,
}


@pytest.mark.parametrize("entries", [1, 2])
@pytest.mark.parametrize("how", OTHERS)
def test_a_log_that_is_removed_as_a_whole_is_missed(tmp_path: Path, how: str, entries: int) -> None:
    """Nothing told: the next action began another one, with entry 1. An attempt that was denied is one entry, and the witness named the one
    before: without it, all was well."""
    log = filled(tmp_path / "data", 3)
    shutil.copytree(log.folder, tmp_path / "old")
    for k in range(entries):
        log.append(NOW + timedelta(hours=k), {"action": "promote", "subject": "m", "outcome": "done"})
    OTHERS[how](log, tmp_path / "old")
    again = AuditLog(log.folder)
    assert str(log.witness) in again.check().problem
    with pytest.raises(DataError, match=r"put the log back|cannot be read"):
        again.append(NOW, {"action": "apply"})
    assert str(log.witness) in again.check().problem, "nothing that was tried made it good"


WITNESSES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "of no entry": lambda told: {"n": 0, "hash": "0" * 64},
    "of no entry, with the seal of another": lambda told: {"n": 0, "hash": "0" * 64, "seal": told["seal"]},
    "of an entry before all": lambda told: {"n": -1, "hash": ""},
    "without a seal": lambda told: {"n": told["n"], "hash": told["hash"]},
}


@pytest.mark.parametrize("left", ["removed", "put back as it was", "as it is"])
@pytest.mark.parametrize("how", WITNESSES)
def test_a_witness_made_anew_without_the_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, left: str) -> None:
    """Its seal was written and never looked at: who removed the folder wrote the one of a log without entries, and nothing told."""
    monkeypatch.setenv("TANDEM_AUDIT_KEY", "a key that the attacker has not")
    log = filled(tmp_path / "data", 3)
    shutil.copytree(log.folder, tmp_path / "old")
    for k in range(2):
        log.append(NOW + timedelta(hours=k), {"action": "promote", "subject": "m", "outcome": "done"})
    told = json.loads(log.witness.read_text())
    assert told["seal"] and not log.check().problem
    if left != "as it is":
        put(log, tmp_path / "old" if left == "put back as it was" else None)
    log.witness.write_text(json.dumps(WITNESSES[how](told)))
    again = AuditLog(log.folder)
    assert "not sealed" in again.check().problem
    with pytest.raises(DataError, match="not sealed"):
        again.append(NOW, {"action": "apply"})
    assert "not sealed" in again.check().problem, "nothing that was tried made it good"


def test_a_log_of_before_there_was_a_witness_goes_on(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.witness.unlink()
    assert not log.check().problem
    log.append(NOW, {"action": "apply"})
    assert not log.check().problem and json.loads(log.witness.read_text())["n"] == 6


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: log.append(NOW, {"action": "apply", "k": k}), range(40)))
    found = log.check()
    assert not found.problem and sorted(e.details["k"] for e in found.entries) == list(range(40))


def test_a_reason_makes_no_entry_of_its_own(tmp_path: Path) -> None:
    """SECURITY M4: ``--reason`` with line ends looked like more entries of the log."""
    from typer.testing import CliRunner

    from pipelines.cli.root import app

    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "tandem.yaml").write_text("data: ../data\n")
    log = AuditLog(layout.audit(tmp_path / "data"))
    forged = "ok\n  2  2024-05-01T00:00:00  root@host  erase x  done\r\x1b[2J"
    log.append(NOW, {"action": "promote", "subject": "m", "why": forged, "outcome": "done"})
    assert len(lines(log)) == 1
    shown = CliRunner().invoke(app, ["audit", "--repo", str(tmp_path / "repo")])
    assert shown.exit_code == 0 and len(shown.output.splitlines()) == 3, shown.output
    assert "ok\\n  2  2024" in shown.output and "\x1b" not in shown.output and "\r" not in shown.output


def test_a_record_that_is_left_out_is_in_the_log(tmp_path: Path) -> None:
    """``tandem stream skip`` takes data away: roles are asked, and who, when and why is in the chain."""
    from typer.testing import CliRunner

    from pipelines.cli.root import app
    from tests.integration.stream_world import make_stream_world

    world = make_stream_world(tmp_path / "world")
    world.stream.mkdir(parents=True)
    words = ["stream", "skip", "trips/0/7", "--reason", "ticket 4711", "--repo", str(world.path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    entries = AuditLog(layout.audit(world.data)).check().entries
    told = [(e.action, e.subject, e.why, e.details["stream"], e.outcome) for e in entries]
    assert told == [("skip", "trips/0/7", "ticket 4711", "main", outcome) for outcome in ("begun", "done")]
    settings = world.path / "tandem.yaml"
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), "access": {"roles": {"ops": ["apply"]}, "members": {"*": ["ops"]}}})
    )
    assert CliRunner().invoke(app, [*words[:2], "trips/0/8", *words[3:]]).exit_code != 0
    assert AuditLog(layout.audit(world.data)).check().entries[-1].outcome == "denied"
    assert [e["offset"] for e in world.control.skipped()] == [7]


def test_a_disk_that_fills_up_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    """The system takes a part of a line and says how much; it was taken for the whole, HEAD named it, and nothing could be done again."""
    log = filled(tmp_path, 2)

    def full() -> None:
        size = log.file.stat().st_size + 50
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        for _ in range(3):
            try:
                log.append(NOW, {"action": "apply", "outcome": "begun"})
            except OSError:
                continue
            os._exit(1)

    child = os.fork()
    if not child:
        try:
            full()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert log.file.read_bytes()[-1:] == b"\n", "what was taken is taken back: three parts in a row would be lines that nobody vouches for"
    log.append(NOW, {"action": "apply", "outcome": "done"})
    found = log.check()
    assert not found.problem and found.torn == 0 and [e.n for e in found.entries] == [1, 2, 3]


def test_no_two_entries_are_ever_ahead_of_head(tmp_path: Path) -> None:
    """A full disk may take lines and no new HEAD: after the second of them the log was called cut off, for ever."""
    log = filled(tmp_path, 2)
    in_the_way = log.head.with_name(f".HEAD.{os.getpid()}.{threading.get_ident()}")
    in_the_way.mkdir()
    for _ in range(4):
        with pytest.raises(OSError, match="HEAD"):
            log.append(NOW, {"action": "rollback", "outcome": "begun"})
    assert not log.check().problem
    in_the_way.rmdir()
    log.append(NOW, {"action": "rollback", "outcome": "done"})
    assert not log.check().problem


@pytest.mark.parametrize("left", ["HEAD", "the witness"])
def test_an_entry_stays_where_what_names_it_could_not_be_written(tmp_path: Path, left: str) -> None:
    """The caller hears of the full disk, and the log has what was about to be done."""
    log = filled(tmp_path, 2)
    file = log.head if left == "HEAD" else log.witness
    in_the_way = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    in_the_way.mkdir()
    with pytest.raises(OSError, match=file.name):
        log.append(NOW, {"action": "rollback", "outcome": "begun"})
    in_the_way.rmdir()
    found = log.check()
    assert not found.problem and [e.n for e in found.entries] == [1, 2, 3] and found.entries[-1].action == "rollback"
    log.append(NOW, {"action": "rollback", "outcome": "done"})
    found = log.check()
    assert not found.problem and [e.n for e in found.entries] == [1, 2, 3, 4]


@pytest.mark.parametrize("line", [b'{"hash": 5}', b'{"hash": "a", "n": "x"}', b"[" * 100_000, b"5"])
def test_a_line_that_is_no_entry_is_no_crash(tmp_path: Path, line: bytes) -> None:
    log = filled(tmp_path)
    write(log, [*lines(log), line + b"\n", line + b"\n"])
    assert log.check().problem
    with pytest.raises(DataError, match="cannot be read"):
        log.append(NOW, {"action": "apply"})


NEVER_WRITTEN = [
    '{"n": 1e999, "hash": "x"}',
    '{"n": Infinity, "hash": "x"}',
    '{"n": 2.0, "hash": "x"}',
    '{"n": true, "hash": "x"}',
    '{"n": ' + "9" * 5000 + ', "hash": "x"}',
    '{"n": 2, "hash": [1]}',
    '{"n": 2}',
    "[1]",
    "null",
    "[" * 100_000,
    "\xff",
    "",
]


@pytest.mark.parametrize("file", ["HEAD", "witness"])
@pytest.mark.parametrize("text", NEVER_WRITTEN)
def test_what_names_the_last_entry_and_was_never_written_is_told(tmp_path: Path, file: str, text: str) -> None:
    """A number without end was an OverflowError, and ended the check of what somebody had changed."""
    log = AuditLog(tmp_path / "audit")
    for n in range(2):
        log.append(NOW, {"action": "promote", "what": str(n)})
    (log.head if file == "HEAD" else log.witness).write_bytes(text.encode("latin-1"))
    assert "cannot be read" in log.check().problem
    with pytest.raises(DataError, match="cannot be read"):
        log.append(NOW, {"action": "promote", "what": "2"})
