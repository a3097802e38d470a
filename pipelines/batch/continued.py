"""A batch run that goes on where an earlier one ended: its tiles stand for the events before, so only files of the time after are read.

The rows are those, byte for byte, of one run over all of it. What was read before must be as it was: a file that came late is read as well,
and where a file is altered or gone, or anything else that tiles are made by is another, nothing is made and one line says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.batch.run_key import code_of, declared, engine_code, sources_of
from pipelines.lake import provenance, runs, shared
from pipelines.lake.data_files import json_digest, sha256
from pipelines.lake.run_parts import InputFile
from pipelines.lake.run_records import BatchRecord
from pipelines.project.repository import Repo
from pipelines.sources.event_files import EventFile, Inventory, inventory
from pipelines.sources.log_names import day_in, in_range
from pipelines.sources.recorded_files import Recorded, digest_of, recorded
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DataError
from transforms.instants import instant, micros_of

__all__ = ["Continued", "Reading", "continued", "looked_through_from", "reading"]

_WHOLE = "omit --from-run and give --start to read all events that the rows need"
_DAY_US = 86_400_000_000
_EVER = 2**62
"""Later than any event: see ``steps.NOBODY_KNOWS``."""


@dataclass(frozen=True)
class Continued:
    """The run ``record`` that is gone on with: where it ended (which is where the new one starts), its tiles by group, their digest."""

    record: BatchRecord
    end: datetime
    tiles: dict[str, list[str]]
    digest: str

    @property
    def named(self) -> dict[str, Any]:
        """For the manifest and the key of the new run."""
        return {"run": self.record.id, "end": self.end.isoformat(), "tiles": self.digest}


@dataclass(frozen=True)
class Reading:
    """What a continued run reads of a source, and what it need not.

    ``files`` are read, those named in ``begins`` for events from there on (microseconds); ``late`` names those that were not there before,
    of days that are over. ``past``: what the tiles hold already, ``spans``: the times of those whose folder does not tell. ``found``: all.
    """

    found: Inventory
    files: list[EventFile]
    begins: dict[str, int]
    late: list[str]
    past: list[InputFile]
    spans: dict[str, list[int]] = field(default_factory=dict)


def continued(repo: Repo, asked: str, start: datetime | None, end: datetime) -> Continued:
    """The run called ``asked``, to go on with up to ``end``; ``latest``: of those that made rows of all groups, the one that ends last
    before ``end``. ``start`` must be None or its end. Raises ConfigError and DataError where it cannot be gone on with."""
    run = _latest(repo, end) if asked == "latest" else runs.find(repo.data, asked, BatchRecord.KIND)
    record = run.as_(BatchRecord)
    if record.status != "complete" or not record.tiles or len(record.range) != 2:
        raise DataError(f"run {run.id} is {record.status}{'' if record.tiles else ' and has no tiles'}; name a complete batch run")
    ends = instant(int(record.tiles["end_us"]))
    if start is not None and start != ends:
        raise ConfigError(f"--start {_text(start)}: run {run.id} ends at {_text(ends)}, where what continues it starts; leave --start out")
    if ends >= end:
        raise ConfigError(f"--end {_text(end)}: run {run.id} has rows up to {_text(ends)}; name a later --end, or an earlier run")
    if tables := [n for n, s in sources_of(repo.groups.values()).items() if s.table is not None]:
        raise ConfigError(f"--from-run: source {tables[0]!r} is a table, which is read whole; {_WHOLE}")
    if (why := _other(repo, record, micros_of(ends))) is not None:
        raise DataError(f"run {run.id} cannot be continued: {why}; {_WHOLE}")
    shared.have_run(repo.data, run.id)
    tiles = {name: _tiles(run, record, name) for name in repo.groups}
    digest = json_digest(sorted([o["name"], o["sha256"]] for o in record.outputs if _group_of(o["name"]) in repo.groups))
    return Continued(record, ends, tiles, digest)


def _latest(repo: Repo, end: datetime) -> runs.Run:
    able = []
    for run in runs.RunStore(repo.data).as_written(BatchRecord.KIND, "complete"):
        ends = span[1] if (span := runs.range_of(run)) is not None else end
        if ends < end and set(repo.groups) <= set(run.record.fingerprints):
            able.append((ends, run.created, run))
    if not able:
        raise DataError(
            f"--from-run latest: there is no complete batch run of {', '.join(repo.groups)} that ends before {_text(end)}; {_WHOLE}"
        )
    return max(able, key=lambda each: each[:2])[2]


def _text(t: datetime) -> str:
    return f"{t.astimezone(UTC):%Y-%m-%dT%H:%M}" + (f":{t:%S.%f}" if t.second or t.microsecond else "")


def _other(repo: Repo, then: BatchRecord, end: int) -> str | None:
    """Why tiles of then are none of now; None: they are. Comments and layout of code count for nothing, as in a run's key."""
    code = then.code.get("value_files") or {}
    for name, group in repo.groups.items():
        if name not in then.fingerprints:
            return f"it made no rows of group {name!r}"
        if then.definitions.get(name) != json.loads(json.dumps(group.canonical())):
            return f"group {name!r} is now defined differently"
        if then.declared.get(name, {}) != declared(group):
            return f"group {name!r} now has another preprocessing_fn, file_format or allowed_lateness"
        for file, meaning in code_of(repo, group).items():
            if code.get(file) != meaning:
                return f"{file.removeprefix('repo/')} changed, which group {name!r} is computed from"
    present = engine_code(then.code)
    if changed := sorted(f for f in {*present, *(f for f in code if not f.startswith("repo/"))} if present.get(f) != code.get(f)):
        return f"Tandem's own code changed ({changed[0]}{', ..' if len(changed) > 1 else ''})"
    libraries = provenance.library_versions()
    if other := sorted(n for n in {*libraries, *then.versions} if libraries.get(n) != then.versions.get(n)):
        return f"{other[0]} is {libraries.get(other[0])} now and was {then.versions.get(other[0])}"
    hours = repo.settings.batch.max_future_hours
    before = (then.settings.get("batch") or {}).get("max_future_hours", hours)
    if before != hours:
        return f"batch.max_future_hours is {hours} now and was {before}"
    if end > micros_of(datetime.fromisoformat(then.created)) + round(hours * 3.6e9):
        return "it ended in the future, and may have rejected events as future ones that no longer are"
    return None


def _group_of(output: str) -> str | None:
    """``tiles/<group>/shard-0000.parquet`` -> the group."""
    parts = output.split("/")
    return parts[1] if parts[0] == "tiles" and len(parts) == 3 else None


def _tiles(run: runs.Run, record: BatchRecord, group: str) -> list[str]:
    """The files of a group's tiles, each as the run wrote it. Raises DataError where one is not (it was erased from, or is damaged)."""
    out = []
    for output in sorted((o for o in record.outputs if _group_of(o["name"]) == group), key=lambda o: o["name"]):
        path = run.folder / output["name"]
        if not path.is_file() or sha256(path) != output["sha256"]:
            how = "an erased subject was taken out of them" if record.more.get("erased") else "they are damaged or missing"
            raise DataError(f"run {run.id} cannot be continued: its tiles of {group!r} are not as it wrote them ({how}); {_WHOLE}")
        out.append(str(path))
    if bool(out) != bool(record.tiles["groups"].get(group, 0)):
        raise DataError(f"run {run.id} cannot be continued: its manifest does not name its tiles of {group!r}; {_WHOLE}")
    return out


def looked_through_from(record: BatchRecord, source: EventSource, begin: int) -> int:
    """From which day on the folders of ``source`` are looked through, for events from ``begin`` on (microseconds): a file may hold events
    of other days than its folder's."""
    spans = record.spans.get(source.name, {})
    return min([begin, *(day for name, (_, hi) in spans.items() if hi >= begin and (day := _day_us(name)) is not None)])


def reading(data: Path, source: EventSource, then: Continued, begin: int, end: int, far: Inventory | None = None) -> Reading:
    """What is to be read of ``source`` for rows after ``then.end`` and before ``end``, which need events from ``begin`` on (microseconds).
    ``far``: what lies there, where somebody looked through it (:func:`looked_through_from`) and hashed what was touched.

    Raises DataError where a file whose events the tiles hold is not as it was, or gone.
    """
    record, ends = then.record, micros_of(then.end)
    known = recorded([record], source.name)
    spans = {name: (lo, hi) for name, (lo, hi) in record.spans.get(source.name, {}).items()}
    found = far or inventory(data, source, looked_through_from(record, source, begin), end, hashes=False)
    files, begins, late = [], {}, []
    past: list[InputFile] = []
    for file in found.files:
        lo, hi = spans.get(file.name) or _span(file.name)
        old = known.get(file.name)
        if old is None or digest_of(file, known) != old.sha256:
            if old is not None and lo < ends and hi >= begin:
                raise _changed(record.id, file.name, "was changed after the run read it")
            if in_range(file.name, begin, end):  # it would be listed without a run to continue
                files.append(file)
                late += [file.name] if -_EVER < _span(file.name)[1] < ends else []
        elif hi >= ends:
            files.append(file)
            begins[file.name] = ends
        elif hi >= begin or in_range(file.name, begin, end):
            past.append({"file": file.name, "size": file.size, "sha256": old.sha256})
    for name in sorted(_gone(known, {f.name for f in found.files}, spans, begin, ends)):
        raise _changed(record.id, name, "no longer exists, though the run read it")
    return Reading(found, files, begins, sorted(late), past, {f["file"]: list(spans[f["file"]]) for f in past if f["file"] in spans})


def _gone(known: Mapping[str, Recorded], present: set[str], spans: Mapping[str, tuple[int, int]], begin: int, end: int) -> Iterator[str]:
    for name in known:
        lo, hi = spans.get(name) or _span(name)
        if name not in present and lo < end and hi >= begin:
            yield name


def _changed(run: str, file: str, how: str) -> DataError:
    return DataError(f"run {run} cannot be continued: {file} {how}, and later rows still need its events; {_WHOLE}")


def _day_us(name: str) -> int | None:
    """The day of the innermost ``date=`` folder of a file's name."""
    day = day_in(name.split("/")[:-1])
    return None if day is None else micros_of(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _span(name: str) -> tuple[int, int]:
    """First and last event time of a file of which the run said nothing: its folder's day; none, where it lies in no such folder."""
    day = _day_us(name)
    return (_EVER, -_EVER) if day is None else (day, day + _DAY_US - 1)
