"""A served prediction, traced back: model version, training run and set; per view the row served, its writer, graph and events.

Everything is read from what the jobs left: the request log, manifests, ``tandem.json``, row logs and offline rows. What is no
longer there is said (``notes``), never guessed.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import layout, runs
from pipelines.lake.data_files import name_below, sha256
from pipelines.lake.graphs import applied_graph
from pipelines.lake.run_records import BatchRecord, StreamRecord, TrainRecord
from pipelines.lineage.trace_record import ServedRow, Trace, TracedEvents, TracedGraph, TracedRun, TracedSet, TracedVersion, Writer
from pipelines.lineage.trace_text import key_text
from pipelines.project.repository import Repo
from pipelines.streaming.state.row_log import read_rows
from pipelines.training.training_set_record import TrainingSetRecord
from serving.aliases import ALIASES_FILE
from serving.projections import Projection
from serving.request_rows import PROJECTION, projection_in
from transforms.definitions import CREATED, EVENT_TIMESTAMP, FINGERPRINT, REVISION, FeatureGroup
from transforms.errors import DataError

__all__ = ["trace"]

_DAY = timedelta(days=1)


def trace(repo: Repo, request_id: str, row: int = 0) -> Trace:
    """Where the answer to instance ``row`` of request ``request_id`` came from. Raises DataError if the log has no such answer."""
    from serving.request_log import COMMON

    log = repo.settings.request_log(repo.path)
    if log is None:
        raise DataError("the request log is disabled (serve.request_log); predictions cannot be traced without it")
    answer, times = _answer(log, request_id, row)
    known = {r.id: r for r in runs.list_runs(repo.data)}
    notes: list[str] = []
    if times > 1:
        notes.append(f"{times} responses have this request id; showing the last one")
    views = list(dict.fromkeys(c.removesuffix("__tandem_status") for c in answer if c.endswith("__tandem_status")))
    views = [v for v in views if answer[f"{v}__tandem_status"] is not None]
    version = _version(repo, answer)
    run_id = answer.get("tandem_run")
    return Trace(
        request=request_id,
        row=row,
        at=_text(answer["tandem_at"]),
        as_of=_text(answer["tandem_as_of"]),
        endpoint=answer["tandem_endpoint"],
        prediction=_plain(answer["tandem_prediction"]),
        model=answer["tandem_model"],
        version=answer["tandem_version"],
        asked={c: _plain(v) for c, v in answer.items() if "__" not in c and c not in COMMON.names and v is not None},
        model_version=version,
        training_run=_training_run(known.get(str(run_id)), str(run_id)) if run_id else None,
        training_set=_training_set(repo.data, version, known.get(str(run_id)), notes) if run_id else None,
        views=[_view(repo, known, answer, v, notes) for v in views],
        notes=notes,
    )


def _answer(folder: Path, request_id: str, row: int) -> tuple[dict[str, Any], int]:
    """The logged row, and how many there are of this id and row."""
    from serving.request_log import files_of

    found: list[dict[str, Any]] = []
    rows: set[int] = set()
    for file in files_of(folder) if folder.is_dir() else []:
        names = pq.ParquetFile(file)
        known = [c for c in ("tandem_request", "tandem_client_request") if c in names.schema_arrow.names]
        ids = names.read(columns=known)
        mask = functools.reduce(pc.or_, (pc.fill_null(pc.equal(ids.column(c), request_id), False) for c in known))
        if pc.any(mask).as_py():
            some = names.read().filter(mask).to_pylist()
            rows |= {int(r["tandem_row"]) for r in some}
            found += [r for r in some if r["tandem_row"] == row]
    if not found:
        if rows:
            raise DataError(f"request {request_id!r} has no row {row}; it has {', '.join(map(str, sorted(rows)))}")
        raise DataError(
            f"the request log {folder} has no response for request {request_id!r}; use the X-Request-Id of the response or request;"
            " the log is sampled and written in batches (serve.request_log_seconds)"
        )
    return max(found, key=lambda r: r["tandem_at"]), len(found)


def _version(repo: Repo, answer: Mapping[str, Any]) -> TracedVersion | None:
    name, number = answer["tandem_model"], answer["tandem_version"]
    if name is None:
        return None
    folder = layout.model(repo.data, str(name)) / str(number)
    out: TracedVersion = {"model": name, "version": number, "path": name_below(repo.data, folder), "there": folder.is_dir()}
    with suppress(OSError, ValueError):
        spec = json.loads((folder / layout.SPEC_FILE).read_text())
        out |= {
            "created": spec.get("created"), "training_set": spec.get("training_set"), "run": spec.get("run"),
            "fingerprints": spec.get("fingerprints"), "feature_service": spec.get("feature_service"),
        }  # fmt: skip
    with suppress(OSError, ValueError, AttributeError):
        aliases = json.loads((folder.parent / ALIASES_FILE).read_text())
        out["alias_now"] = next((a for a in ("champion", "challenger") if aliases.get(a) == number), None)
    return out


def _training_run(run: runs.Run | None, run_id: str) -> TracedRun:
    if run is None:
        return {"id": run_id, "recorded": False}
    said = run.record
    return {
        "id": run.id,
        "recorded": True,
        "status": run.status,
        "created": run.created,
        "range": said.range,
        "seeds": said.seeds,
        "params": said.params,
        "metrics": {n: v for n, v in said.metrics.items() if "=" not in n},
        "code": {k: said.code.get(k) for k in ("commit", "dirty", "sha256", "engine")},
        "lock": said.lock,
        "links": said.links,
    }


def _training_set(data: Path, version: TracedVersion | None, run: runs.Run | None, notes: list[str]) -> TracedSet | None:
    identity = (run.as_(TrainRecord).training_set if run is not None else None) or (version or {}).get("training_set")
    if not identity:
        return None
    folder = layout.training_set(data, str(identity))
    out: TracedSet = {"id": str(identity), "path": name_below(data, folder), "there": folder.is_dir()}
    try:
        if (record := TrainingSetRecord.load(folder)) is not None:
            out |= {"created": record.created or None, "rows": record.rows}
    except DataError as error:
        notes.append(str(error))
    if run is not None:
        query = run.as_(TrainRecord).query
        out["query"] = {k: query.get(k) for k in ("start", "end", "as_of", "spine", "spine_sha256", "runs")}
        files = [o for o in run.record.outputs if o["name"].startswith("training_set/")]
        out["intact"] = bool(files) and all(_state(data, o["path"], o["sha256"]) == "as it was" for o in files)
    return out


# --------------------------------------------------------------------------------------------------------------------------- views


def _view(repo: Repo, known: Mapping[str, runs.Run], answer: Mapping[str, Any], view: str, notes: list[str]) -> ServedRow:
    use = projection_in(answer, view)
    group = repo.groups.get(use.view)
    stamp, revision, fingerprint = (answer.get(f"{view}__{n}") for n in (EVENT_TIMESTAMP, REVISION, FINGERPRINT))
    prefix = f"{view}__"
    skip = {f"{view}__{n}" for n in (EVENT_TIMESTAMP, REVISION, FINGERPRINT, "tandem_status", "tandem_age", PROJECTION)}
    out: ServedRow = {
        "view": view,
        **(_behind(use) if use != Projection(view) else {}),
        "key": {k: _plain(answer[c]) for k in (group.entity.keys if group else ()) if (c := use.column(k)) in answer},
        "status": answer[f"{view}__tandem_status"],
        "event_timestamp": _text(stamp),
        "age": _plain(answer.get(f"{view}__tandem_age")),
        "revision": revision,
        "fingerprint": fingerprint,
        "values": {
            c.removeprefix(prefix): _plain(v)
            for c, v in answer.items()
            if c.startswith(prefix) and c not in skip and not c.endswith("__status")
        },
        "writers": [],
        "graph": None,
        "events": None,
    }
    if group is None:
        notes.append(f"view {view!r} is no longer defined (or is not a Tandem view): its rows are not traced")
        return out
    if stamp is None:
        return out
    out["writers"] = writers = _writers(repo, known, group, out["key"], stamp, revision, answer["tandem_at"])
    if not writers:
        notes.append(f"view {view!r}: no stored row of {key_text(out['key'])} at {_text(stamp)} is left that was there when it was served")
    fingerprint = fingerprint or next((w["fingerprint"] for w in writers), None)
    out["graph"] = _graph(repo.data, known, use.view, fingerprint)
    out["events"] = _events(repo, known, group, stamp, writers)
    return out


def _behind(use: Projection) -> ServedRow:
    return {"of": use.view, "join_keys": dict(use.join_keys)}


def _writers(
    repo: Repo, known: Mapping[str, runs.Run], group: FeatureGroup, key: Mapping[str, Any], stamp: datetime, revision: Any, served: datetime
) -> list[Writer]:
    """Who wrote a row of this key, time and revision before it was served: stream runs by their row logs, batch runs by their files."""
    found: list[Writer] = []
    for folder in sorted(p for p in layout.streams(repo.data).glob("*") if (p / "rows" / group.name).is_dir()):
        for row in _rows(read_rows(folder, group), key, stamp, revision, served):
            run = _stream_run(known, folder.name, row[CREATED])
            found.append({"kind": "stream", "name": folder.name, "run": run.id if run else None, **_said(row)})
    for folder in sorted((layout.offline(repo.data) / group.name).glob("run=*")):
        files = sorted(str(p) for p in folder.rglob("*.parquet"))
        for row in _rows(_only(files, key, stamp), key, stamp, revision, served) if files else []:
            found.append({"kind": "batch", "run": folder.name[4:], **_said(row), "path": name_below(repo.data, folder)})
    return sorted(found, key=lambda w: str(w["created"]))


def _only(files: Sequence[str], key: Mapping[str, Any], stamp: datetime) -> Any:
    import pyarrow.dataset as ds

    wanted = ds.field(EVENT_TIMESTAMP) == pa.scalar(stamp, pa.timestamp("us", tz="UTC"))
    for name, value in key.items():
        wanted &= ds.field(name) == value
    return ds.dataset(list(files), format="parquet").to_table(filter=wanted)


def _rows(table: Any, key: Mapping[str, Any], stamp: datetime, revision: Any, served: datetime) -> list[dict[str, Any]]:
    times = table.column(EVENT_TIMESTAMP)
    mask = pc.equal(times, pa.scalar(stamp, times.type))
    for name, value in key.items():
        mask = pc.and_(mask, pc.equal(table.column(name), value))
    rows: list[dict[str, Any]] = table.filter(mask).to_pylist()
    return [r for r in rows if revision in (None, r.get(REVISION)) and (r.get(CREATED) is None or r[CREATED] <= served)]


def _said(row: Mapping[str, Any]) -> Writer:
    return {"created": _text(row.get(CREATED)), "revision": row.get(REVISION), "fingerprint": row.get(FINGERPRINT)}


def _stream_run(known: Mapping[str, runs.Run], name: str, created: datetime | None) -> runs.Run | None:
    """The run of the stream that was under way then."""
    mine = [r for r in known.values() if r.kind == "stream" and r.head.name == name]
    before = [r for r in mine if created is None or datetime.fromisoformat(r.created) <= created]
    return before[-1] if before else None


def _graph(data: Path, known: Mapping[str, runs.Run], view: str, fingerprint: str | None) -> TracedGraph | None:
    if fingerprint is None:
        return None
    folder = layout.graph(data, view, fingerprint)
    made = next((r for r in known.values() if r.kind == "batch" and r.record.fingerprints.get(view) == fingerprint), None)
    out: TracedGraph = {"fingerprint": fingerprint, "path": name_below(data, folder), "there": folder.is_dir()}
    out["made_by"] = made.id if made is not None else None
    if (applied := applied_graph(layout.graphs(data), view)) is not None:
        out["applied_now"] = applied == fingerprint
    with suppress(OSError, ValueError):
        out["definition_hash"] = json.loads((folder / layout.SPEC_FILE).read_text()).get("definition_hash")
    return out


def _events(repo: Repo, known: Mapping[str, runs.Run], group: FeatureGroup, stamp: datetime, writers: Sequence[Writer]) -> TracedEvents:
    """The events that the row can have been made of: those of its longest window; as files with hashes, as a topic, or both."""
    boundary = stamp - timedelta(microseconds=group.delay_us)
    first = boundary - timedelta(microseconds=group.longest_us)
    out: TracedEvents = {"source": group.source.name, "from": _text(first), "to": _text(boundary), "files": []}
    batch = {w["run"] for w in writers if w["kind"] == "batch"}
    for w in (w for w in writers if w["kind"] == "stream"):
        stream = known.get(str(w["run"]))
        start = stream.as_(StreamRecord).start if stream is not None else {}
        out["topic"] = {"name": group.source.topic, "stream": w["name"], "offsets": (start.get("offsets") or {}).get(group.source.name)}
        if start.get("run"):
            seed = known.get(Path(str(start["run"])).name)
            end = seed.head.range[1] if seed is not None and seed.head.range else None
            out["topic"]["since"] = end
            if seed is not None and end is not None and first < datetime.fromisoformat(end):
                batch.add(seed.id)  # its tiles fill the part of the window before the stream began
    for run in (known[i] for i in sorted(str(b) for b in batch) if i in known):
        past = run.record.past if isinstance(run.record, BatchRecord) else {}
        for f in (*run.record.inputs.get(group.source.name, ()), *past.get(group.source.name, ())):
            if _within(f["file"], first, boundary) and f["file"] not in {x["file"] for x in out["files"]}:
                now = _state(repo.data, f["file"], f["sha256"])
                out["files"].append({"file": f["file"], "size": f["size"], "sha256": f["sha256"], "now": now, "run": run.id})
    return out


def _within(file: str, first: datetime, end: datetime) -> bool:
    """Whether a file may hold events of [first, end): by the day of its folder, if it lies in one."""
    for part in file.split("/"):
        if part.startswith("date="):
            with suppress(ValueError):
                day = datetime.strptime(part, "date=%Y-%m-%d").replace(tzinfo=UTC)
                return day < end and day + _DAY > first
    return True


def _state(data: Path, file: str, digest: str) -> str:
    path = data / file
    return "gone" if not path.is_file() else "as it was" if sha256(path) == digest else "altered"


def _text(value: Any) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
