"""``tandem erase``: remove a subject from everything in the data folder and the online store, and mark what depended on it.

Rows and lines about the subject are removed from event files, offline rows, dead letters, tiles, a stream's logs, saved tiles and waiting
letters, training sets, the request log and its labels, in the data folder and where links and settings lead out of it, and from the online
store. What cannot be edited (TFX's copies of examples, reports, Flink's checkpoints) is deleted whole where it holds the subject's bytes.
Then everything is searched again. Models, graphs and trackers' stores are not changed: they are reported if they still hold the subject.
Manifests of what lost rows, and of what was made from that, are marked ``erased``, with a hash of the keys and never the keys.

:func:`erase` takes a :class:`Subject` alone, so that a tombstone or a captured delete can become one.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.feature_store.store import open_store, ordered_store
from pipelines.forgetting.defined_subject import as_defined
from pipelines.forgetting.dry_run_folder import drop_dry_runs, dry_run_folder
from pipelines.forgetting.found_files import Found, found_files
from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.key_names import has_key
from pipelines.forgetting.marked_manifests import mark_manifests, owners
from pipelines.forgetting.online_files import online_copy_without, online_files
from pipelines.forgetting.online_rows import without_online_rows
from pipelines.forgetting.other_formats import is_other, other_holds, read_with_keys, without_records
from pipelines.forgetting.parquet_parts import UNREADABLE, parquet_parts, without
from pipelines.forgetting.store_copies import StoreCopies, store_copies
from pipelines.forgetting.stream_tiles import tiles_have, tiles_hold, without_tiles
from pipelines.forgetting.subject import LINES, Subject, holds, without_rows
from pipelines.forgetting.unsealed import as_sealed
from pipelines.forgetting.waiting_letters import letters_hold, without_letters
from pipelines.lake import layout
from pipelines.lake.counted import counted
from pipelines.lake.runs import RunStore
from pipelines.project.repository import Repo
from pipelines.sources.file_formats.file_format import UnreadableFileError
from pipelines.streaming.driver import running
from pipelines.streaming.state.log_segments import seal_leftovers
from serving.registry_place import has_store
from transforms.errors import ConfigError, DataError, StoreError, TandemError

__all__ = ["Report", "erase"]

_LEFT_ALONE = (*(f(Path()).name for f in (layout.models, layout.graphs, layout.mlflow_store, layout.mlflow_artifacts)), "registry.db")
"""Never rewritten; searched in the end."""
_WHOLE = ("tfx", "verify", "monitor", "reproduce", "demo", "replay", "alerts", "watch", "tracking")
"""Reports and copies: a file that holds the subject goes as a whole."""
_ANSWER = ("tandem_request", "tandem_row", "tandem_at")


@dataclass
class Report:
    """What was found where: place -> rows, lines or files; ``rewritten`` and ``deleted`` files; ``marked`` manifests; ``remains``: files
    (relative to the data folder) that hold its bytes still, of a dry run those that would (:func:`_would_hold`); ``unread``: files that
    nobody can read, or not write again, searched as their bytes lie; ``notes``: what is not Tandem's to erase."""

    found: Counter[str] = field(default_factory=Counter)
    rewritten: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def not_read(self, name: str) -> None:
        """Name a file that nobody can read, or not write again without the subject."""
        if name not in self.unread:
            self.unread.append(name)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {**vars(self), "found": dict(self.found)}


def erase(repo: Repo, subject: Subject, dry_run: bool = False, say: Callable[[str], None] = lambda line: None) -> Report:
    """Forget the subject; see the module. ``dry_run`` changes nothing. Raises DataError while a stream of the data folder runs, or another
    job does, which could write what it has read before; none begins meanwhile."""
    copies_in: AbstractContextManager[Path | None] = dry_run_folder(repo.data) if dry_run else nullcontext()
    with (
        nullcontext() if dry_run else RunStore(repo.data).alone(("stream", "serve", "watch")),
        copies_in as scratch,
    ):
        if not dry_run:
            drop_dry_runs(repo.data)
        for folder in _streams(repo.data):
            if running(folder) is not None:
                raise DataError(
                    f"stream {folder.name!r} is running and would write the rows again; run 'tandem stream stop --name {folder.name}' first"
                )
        with store_copies(repo, dry_run) as copies:
            return _erase(repo, subject, scratch, say, copies)


def _streams(data: Path) -> list[Path]:
    return sorted(p for p in layout.streams(data).glob("*") if p.is_dir())


def _erase(repo: Repo, subject: Subject, scratch: Path | None, say: Callable[[str], None], copies: StoreCopies | None) -> Report:
    """``scratch``: of a dry run, where it may write; None: it is to be done."""
    data, report, dry_run = repo.data, Report(), scratch is not None
    _check_keys(repo, subject)
    _check_names(repo, subject)
    if not dry_run:
        _check_room(repo)
    for folder in _streams(data):
        if not dry_run:
            seal_leftovers(folder)
            shutil.rmtree(folder / "flink" / "checkpoints", ignore_errors=True)  # tiles; an embedded engine never restores them
    subject = as_defined(repo, subject)
    streams = [p for p in _streams(data) if (p / "tiles").is_dir()]
    tiles_left = []
    for folder in streams:
        tiles = without_tiles(folder, subject, dry_run)
        tiles_left += [f"stream/{folder.name}/tiles"] * tiles.held
        _rewritten(sum(t.num_rows for t in tiles.gone), f"stream/{folder.name}", f"stream/{folder.name}/tiles", report)
    files = [f for f in found_files(repo) if f.name.split("/")[2:4] != ["flink", "checkpoints"]]  # deleted above, were this no dry run
    if scratch is not None:
        files = as_sealed(files, scratch)
    say(f"event files, rows, logs: {counted(files, 'file')}")
    answers = _answers(files, subject)
    _labels(data, answers, dry_run, report)  # before the request log, which alone says whose they are: killed here, it says so again
    todo = [file for file in files if file.top not in _LEFT_ALONE and file.path.name != layout.MANIFEST]
    for file in todo if dry_run else _marked(data, todo, subject, report):
        _one_file(file, subject, dry_run, report)
    if copies is not None and not dry_run:
        say("the object store")
        copies.send()
    say("the online store")
    _online(repo, subject, dry_run, report)
    say("searching for what remains" if dry_run else "searching again")
    if scratch is not None:
        online = online_files(repo)
        left = [f for f in files if f.name not in report.deleted and f.path.resolve() not in online]
        report.remains = [*(f.name for f in left if _would_hold(f, subject, answers, scratch)), *tiles_left]
        if (copy := online_copy_without(repo, subject, scratch)) is not None:
            there = next((f for f in files if f.path.resolve() == min(online, key=lambda p: len(p.name))), None)
            report.remains += [there.name] if there is not None and holds(copy, subject) else []
    else:
        report.remains = [f.name for f in found_files(repo) if _holds(f, subject)]
        report.remains += [f"stream/{p.name}/tiles" for p in streams if tiles_hold(p, subject)]
    if copies is not None:
        passing, more_remain = copies.search(subject, dry_run)
        report.deleted += passing
        report.remains += more_remain
    if copies is not None:
        report.notes.append(
            "other machines delete their copies before they use the object store again; for what is on those machines"
            " only (docs/object-stores.md), run the same command there; in a bucket with versioning, let a lifecycle rule expire old ones"
        )
    if report.unread:
        more = f" and {len(report.unread) - 10} more" if len(report.unread) > 10 else ""
        report.notes.append(
            f"cannot be read, so only their raw bytes were searched: {', '.join(report.unread[:10])}{more}; repair them and erase again, or"
            " delete them"
        )
    topics = sorted({s.topic for s in repo.sources.values() if s.topic})
    if topics:
        report.notes.append(
            f"topics are not erased ({', '.join(topics)}, dead letters in {repo.settings.kafka.dead_letters}): a stream or replay that"
            " reads them brings the subject back; delete its records there (a tombstone, delete-records), or wait for retention"
        )
    if kept := repo.settings.stream.checkpoints:
        report.notes.append(f"what Flink has left in stream.checkpoints ({kept}) is not erased: streams are stopped, so delete it there")
    report.notes.append("a running server still writes requests that it has buffered; erase again after request_log_seconds, or restart it")
    return report


def _check_keys(repo: Repo, subject: Subject) -> None:
    """Raises DataError for a value that a key of this name cannot have."""
    for name, value in subject.keys:
        kinds = {f.dtype for g in repo.groups.values() for f in g.key_fields if f.name == name}
        if kinds == {"int64"} and not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", value):
            raise DataError(f"--entity {name}={value!r}: {name} is int64, and this is not one; correct it")


def _check_names(repo: Repo, subject: Subject) -> None:
    """Raises DataError for a name that no source has as a field and no file as a key, before anything is changed: a file without the key's
    column is searched for the value alone, so a slip in the name would erase whatever else has that value. A name of definitions that are
    gone is a key of their files still. Raises DefinitionError for a name that no file of lines can be read by."""
    for source in repo.sources.values():
        read_with_keys(source, [name for name, _ in subject.keys])
    known = {f.name for s in repo.sources.values() for f in s.fields}
    for name in (name for name, _ in subject.keys if name not in known):
        tiles = any(tiles_have(folder, name) for folder in _streams(repo.data))
        if not tiles and not any(_has_key(file, name) for file in _with_records(repo)):
            raise DataError(f"--entity {name}=...: nothing has such a key; the sources have {', '.join(sorted(known))}")


def _has_key(file: Found, name: str) -> bool:
    """Whether its records have this key; folders say so of events, while those that Tandem writes (``run=``) are its own."""
    folders = Path(file.name).parts[:-1] if _has_lines(file) else ()
    return has_key(file.path, folders, name, file.source, _is_letter(file))


def _with_records(repo: Repo) -> Iterator[Found]:
    """The files that records are erased from; lines of JSON in a folder that Tandem writes are reports and manifests."""
    for file in found_files(repo):
        records = file.path.name.lower().endswith(".parquet") or _is_letter(file) or _has_lines(file)
        if file.top not in _LEFT_ALONE and file.path.name != layout.MANIFEST and records:
            yield file


def _has_lines(file: Found) -> bool:
    """Whether it is one of events, as far as its folder says."""
    return file.top not in layout.NOT_EVENTS or file.source is not None


def _holds(file: Found, subject: Subject) -> bool:
    found = letters_hold(file.path, subject) if _is_letter(file) else other_holds(file.path, subject, file.source)
    return holds(file.path, subject) if found is None else found


def _would_hold(file: Found, subject: Subject, answers: list[pa.Table], scratch: Path) -> bool:
    """Whether a file would hold the subject's bytes still: told of a copy that is rewritten. Saved tiles are told where they are read."""
    if file.top == "stream" and file.name.split("/")[2:3] == ["tiles"]:
        return False
    held = _holds(file, subject)
    if not held or file.top in _LEFT_ALONE or file.path.name == layout.MANIFEST:
        return held
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        copy = Path(folder, *file.path.absolute().parts[1:])
        copy.parent.mkdir(parents=True)
        shutil.copyfile(file.path, copy)
        _one_file(replace(file, path=copy), subject, False, Report())
        if file.top == "labels":
            _without_answers(copy, answers, False)
        return any(_holds(replace(file, path=path), subject) for path in copy.parent.iterdir())


def _is_letter(file: Found) -> bool:
    """Whether it is a file of letters that wait for their topic."""
    return file.top == "stream" and "letters" in file.name.split("/")[2:-1]


def _rewritten(count: int, place: str, name: str, report: Report) -> None:
    if count:
        report.found[place] += count
        report.rewritten.append(name)


def _one_file(file: Found, subject: Subject, dry_run: bool, report: Report) -> None:
    path, place, source = file.path, file.place, file.source
    lines = path.name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")
    if not subject.within(Path(file.name)).keys:  # all that lies in this folder is about it
        report.found[place] += 1
        report.deleted.append(file.name)
        if not dry_run:
            file.unlink()
        return
    if _is_letter(file):
        _rewritten(without_letters(path, subject, dry_run), place, file.name, report)
        return
    if path.name.lower().endswith(".parquet"):
        try:
            count = without_rows(path, subject, dry_run, not _has_lines(file))
        except UnreadableFileError:  # no Parquet: an event file that a run gave a dead letter
            report.not_read(file.name)
            count = 0
        if count:
            _rewritten(count, place, file.name, report)
            return
    elif source is not None and is_other(path, source):
        try:
            count = without_records(path, subject, source, dry_run)
        except (UnreadableFileError, RecursionError):  # records in records, a thousand deep
            report.not_read(file.name)
            count = 0
        _rewritten(count, place, file.name, report)
        return
    elif _has_lines(file) and lines.endswith(LINES):
        try:
            count = without_json(path, subject, dry_run, lambda: report.not_read(file.name))
        except (*UNREADABLE, UnreadableFileError):
            report.not_read(file.name)
            count = 0
        _rewritten(count, place, file.name, report)
        return
    elif (file.top in _WHOLE or "flink" in path.parts) and holds(path, subject):
        report.found[place] += 1
        report.deleted.append(file.name)
        if not dry_run:
            file.unlink()


def _marked(data: Path, files: list[Found], subject: Subject, report: Report) -> list[Found]:
    """Mark the manifests of what these files are part of, before a row is gone: killed in between, an erasure would find nothing any more
    to mark them by. The files without those that nothing is to be done with."""
    looked, would = {file.name for file in files if any(owners(file.name))}, Report()
    for file in files:
        if file.name in looked:
            _one_file(file, subject, True, would)
    changed = [*would.rewritten, *would.deleted]
    report.marked += mark_manifests(data, subject, changed)
    idle = looked - {*changed, *would.unread}
    return [file for file in files if file.name not in idle]


def _answers(files: list[Found], subject: Subject) -> list[pa.Table]:
    """Which answers were given about the subject, as the request log says. A file that cannot be read says nothing; it is named where its
    rows are to go."""
    out: list[pa.Table] = []
    for file in files:
        if file.top in _LEFT_ALONE or not file.path.name.lower().endswith(".parquet"):
            continue
        mine: list[pa.Table] = []
        with suppress(*UNREADABLE, UnreadableFileError):
            with parquet_parts(file.path) as parts:
                told = {*_ANSWER} <= {*parts.schema.names}
            if told:
                without_rows(file.path, subject, True, not _has_lines(file), mine.append)
            out += [rows.select(list(_ANSWER)) for rows in mine]
    return out


def _without_answers(path: Path, answers: list[pa.Table], dry_run: bool) -> int:
    """Rewrite a file of labels without those of these answers; how many there were."""
    gone = {row for table in answers for row in _named(table)}
    return without(path, lambda rows: np.array([row in gone for row in _named(rows)], bool), dry_run)


def _named(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in _ANSWER), strict=True)


def _labels(data: Path, answers: list[pa.Table], dry_run: bool, report: Report) -> None:
    """Labels name answers, not entities: those of the answers that go go, too."""
    left = []
    for path in sorted(data.glob("labels/*/*.parquet")) if answers else ():
        name = path.relative_to(data).as_posix()
        try:
            _rewritten(_without_answers(path, answers, dry_run), "labels", name, report)
        except UnreadableFileError:
            report.not_read(name)
            left.append(name)
    if left:
        report.notes.append(
            f"labels of the subject's answers may stay in {', '.join(left)}; delete these files: once the request log is erased, nothing"
            " says which labels are the subject's"
        )


def _check_room(repo: Repo) -> None:
    """Raises StoreError where the online store has no room to be written anew. One that is away or damaged stops nothing yet: what is in
    files goes first, and then it is said."""
    try:
        store = open_store(repo)
        online = ordered_store(store)
    except TandemError:
        return
    try:
        online.check_room(store.config)
    except StoreError as error:
        raise StoreError(f"nothing was erased: {error}") from None


def _online(repo: Repo, subject: Subject, dry_run: bool, report: Report) -> None:
    """The subject's rows in every view of the online store."""
    if not has_store(repo.path):
        return
    changed = []
    try:
        store = open_store(repo)
        if store.config.online_store is None:
            return
        try:
            online = ordered_store(store)
        except ConfigError as error:
            report.notes.append(f"the online store is not erased: {error}")
            return
        failed: list[StoreError] = []
        for view in store.list_feature_views():
            try:
                count = without_online_rows(online, store.config, view, subject, dry_run)
            except StoreError as error:  # the other views' rows are no less the subject's
                failed.append(error)
                changed.append(view)
                continue
            if count:
                report.found[f"online/{view.name}"] += count
                changed.append(view)
        if not dry_run:
            report.notes += online.compact(store.config, changed) or ()
        if failed:
            raise failed[0]
    except TandemError as error:
        raise StoreError(f"the online store was not erased: {error}; files are; run the same command again") from None
