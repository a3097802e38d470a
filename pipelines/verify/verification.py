"""``tandem verify``: everything that is compared, in order, and the report of it."""

from __future__ import annotations

import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.feature_store.store import open_store
from pipelines.lake import layout, provenance, runs
from pipelines.project.repository import Repo
from pipelines.sources.broker import open_broker
from pipelines.sources.formats.reading import reading_of
from pipelines.streaming.driver import stream_folder
from pipelines.streaming.state.row_log import beginnings, read_earlier, read_rows
from pipelines.streaming.state.start_position import run_of
from pipelines.verify.contracts_then import Ints, Manifests, Mask, judged_by, lettered, read_otherwise, taken_then
from pipelines.verify.log import (
    EventLog,
    batch_rows,
    changed_files,
    check_run,
    compose,
    found_graphs,
    from_files,
    offline_rows,
    run_over,
)
from pipelines.verify.offline_online import compare_stores, materialized_rows
from pipelines.verify.online import OnlineProof, check, store_reader
from pipelines.verify.proof import GroupProof, prove_group, prove_sources
from pipelines.verify.served import TIMEOUT_US, ServedProof, check_served
from pipelines.verify.stream_record import StreamRecord, check_begun, emission_stamps, load_record
from pipelines.verify.summary import Findings, GroupFound, found_of, summarize
from pipelines.verify.verify_report import VerifyReport
from serving.object_store.cache import given_place
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, FeatureGroup
from transforms.errors import DataError
from transforms.instants import instant, micros_of
from transforms.lateness import NEVER

__all__ = ["VerifyOptions", "check_comparable", "run_verify"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify. ``against``: an existing batch run to compare with instead of one over the stream's own events;
    ``online``, ``served``: whether to look at the online store and the request log; ``keep``: leave the scratch data where it is."""

    name: str = "main"
    against: str | None = None
    online: bool = True
    served: bool = True
    keep: bool = False
    folder: Path | None = None


def check_comparable(repo: Repo, options: VerifyOptions) -> None:
    """Refuse what is no verification: raises ConfigError and DataError, one line each, where there is no such stream, it has emitted
    nothing yet, or the run to compare with is none. Who records a verification asks first: of what was never begun nothing failed."""
    check_begun(stream_folder(repo.data, options.name), options.name, repo.groups)
    if options.against is not None:
        _against(repo, options.against)


def _against(repo: Repo, run_id: str) -> runs.Run:
    run = runs.find(repo.data, run_id, "batch")
    check_run(run, repo.groups)
    return run


def run_verify(repo: Repo, options: VerifyOptions, say: Say = lambda line: None) -> VerifyReport:
    """Compare one stream with batch, the online store and the request log; nothing is written of it.

    Raises ConfigError, DataError and StoreError, one line each, for what cannot be compared at all.
    """
    started = datetime.now(UTC)
    folder = options.folder or layout.verify(repo.data) / f"{options.name}-{started:%Y%m%dT%H%M%S}"
    scratch = folder / "scratch"
    stream = stream_folder(repo.data, options.name)
    before = beginnings(stream)
    record = load_record(stream, options.name, repo.groups)
    try:
        log, run, source, refused = _expected(repo, options, record, scratch, say)
        prints = {n: run.record.fingerprints[n] for n in repo.groups}
        limit = round(repo.settings.stream.max_future_hours * 3.6e9)
        # A run may begin after the stream did, and end before it has come so far.
        span = (log.start, log.end) if options.against is not None else None
        end = log.end if log.end < record.output_watermark else None
        sources = prove_sources(record, repo.groups, log.events, limit)
        at_store = _online(repo, stream, record, say, span) if options.online else None
        at_answers = _served(repo, stream, record, say, span) if options.served else None
        longer = run_of(repo, prints) if record.run is None else None
        compared: dict[str, GroupFound] = {}
        online: dict[str, OnlineProof] = {}
        served: dict[str, ServedProof] = {}
        short: list[str] = []

        def compare_group(name: str, group: FeatureGroup) -> None:
            """All that is asked of a group's rows: they are in memory until it returns."""
            events, known = log.events[group.source.name], sources[group.source.name].lateness
            batch = batch_rows(source.data, group, run, log.start, log.end)
            graphs = found_graphs(repo.data, group)
            proof = prove_group(record, group, batch, events, known, prints[name], graphs, log.start, say, end)
            compared[name] = found_of(proof, record)
            short.extend(_short_windows(proof, events, longer))
            if at_store is not None:
                online[name] = at_store(proof)
            if at_answers is not None and (answers := at_answers(proof)) is not None:
                served[name] = answers

        for name, group in repo.groups.items():
            compare_group(name, group)
        if beginnings(stream) - before:  # rows were read of another log than the checkpoints were
            raise DataError(f"stream {options.name!r} began anew meanwhile, with another log; verify again")
        stores = compare_stores(repo, open_store(repo), say) if options.online else {}
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    words = ["tandem", "verify", "--repo", str(repo.path), "--data", given_place(repo.data), "--name", options.name]
    words += ["--against", options.against] if options.against else []
    return summarize(
        Findings(record, compared, sources, online, served, stores),
        started=started,
        seconds=(datetime.now(UTC) - started).total_seconds(),
        folder=folder,
        log=log,
        against=run.id if options.against else None,
        batch_run=run,
        stream_run=_stream_run(repo, options.name),
        notices=[*short, *_notices(repo, record), *refused],
        scratch=scratch if options.keep else None,
        command=shlex.join(words),
        code=provenance.code_version(repo.path, repo.settings.definitions),
        versions=provenance.library_versions(),
    )


def _when(us: int) -> str:
    return "its beginning" if us == NEVER else f"{instant(us):%Y-%m-%d %H:%M}"


def _expected(
    repo: Repo, options: VerifyOptions, record: StreamRecord, scratch: Path, say: Say
) -> tuple[EventLog, runs.Run, Repo, list[str]]:
    """The events, the batch run to compare with, the repository whose data folder holds its rows, and what is to be said of the events."""
    if options.against is not None:
        run = _against(repo, options.against)
        start, end = (_us_of(t) for t in run.head.range)
        start, end = max(start, record.begin), min(end, record.output_watermark)
        if start >= end:
            raise DataError(
                f"run {run.id} and stream {options.name!r} have no time range in common; choose a run that continues after {_when(start)}"
            )
        say("comparing with the run's own event files: where the topics had other events, rows differ for that reason")
        return from_files(repo, start, end), run, repo, []
    kafka, refused = _taken(repo, options.name, _archived(repo, record, scratch / "archive", say))
    log = compose(repo, kafka, record.begin, record.output_watermark, say)
    scratched, run = run_over(repo, log, scratch, say)
    return log, run, scratched, refused


def _taken(repo: Repo, name: str, kafka: dict[str, pa.Table]) -> tuple[dict[str, pa.Table], list[str]]:
    """The events without those that the stream refused by a contract of before, and a line for each source that has some."""
    manifests = [r.manifest for r in runs.list_runs(repo.data) if r.kind == "stream" and r.head.name == name]
    out, lines = {}, []
    for source, events in kafka.items():
        taken = taken_then(manifests, source, events)
        out[source] = events.filter(pa.array(taken))
        if missing := events.num_rows - out[source].num_rows:
            lines.append(
                f"{missing:,} events of {source} were dead letters under the earlier contract, but are valid now: they are in no row;"
                " 'tandem dlq replay' sends them again"
            )
        judges = judged_by(manifests, source, out[source])
        otherwise = read_otherwise(manifests, source, reading_of(source, repo.settings.kafka), judges)
        if otherwise.any():
            refused = otherwise & _lettered(repo, manifests, source, out[source], judges)
            out[source] = out[source].filter(pa.array(~refused))
            lines.append(
                f"{source}: the stream read {int(otherwise.sum()):,} records with other kafka.formats or kafka.format_options:"
                f" {int(refused.sum()):,} records that were dead letters then are left out, the others are compared as they are read now"
            )
    return out, lines


def _lettered(repo: Repo, manifests: Manifests, name: str, events: pa.Table, judges: Ints) -> Mask:
    """Which of N events are dead letters of the run that judged them."""
    with warnings.catch_warnings():  # as in _archived
        warnings.simplefilter("ignore", DeprecationWarning)
        reader = open_broker(repo.settings.kafka, repo.data).open_reader()
    try:
        return lettered(manifests, reader, repo.settings.kafka.dead_letters, repo.sources[name], events, judges)
    finally:
        reader.close()


def _us_of(text: str) -> int:
    return micros_of(datetime.fromisoformat(text))


def _archived(repo: Repo, record: StreamRecord, folder: Path, say: Say) -> dict[str, pa.Table]:
    """source -> the valid events that some shard has folded, from Kafka."""
    with warnings.catch_warnings():  # kafka-python reads its own files in a way that Python will drop
        warnings.simplefilter("ignore", DeprecationWarning)
        from pipelines.sources.archive import archive, archive_schema

        reader = open_broker(repo.settings.kafka, repo.data).open_reader()
    upto, out = record.upto(repo.groups), {}
    try:
        for name, source in {g.source.name: g.source for g in repo.groups.values()}.items():
            limits = upto.get(name, {})
            say(f"reading {source.topic} from Kafka up to offsets {', '.join(f'{p}: {o:,}' for p, o in sorted(limits.items()))}")
            future = round(repo.settings.stream.max_future_hours * 3.6e9)
            skip = {p: offsets for (topic, p), offsets in record.skips.items() if topic == source.topic}
            target = archive(reader, source, repo.settings.kafka, limits, folder, max_future_us=future, say=say, skip=skip)
            files = sorted(target.glob("*.parquet"))
            tables = [pq.ParquetFile(f).read() for f in files]
            out[name] = pa.concat_tables(tables) if tables else archive_schema(source).empty_table()
    finally:
        reader.close()
    return out


def _online(repo: Repo, folder: Path, record: StreamRecord, say: Say, span: tuple[int, int] | None) -> Callable[[GroupProof], OnlineProof]:
    """How to look at a group's view in the online store. A stream that runs may have gone on: what looks odd is looked at once more."""
    store = open_store(repo)
    read, applied = store_reader(store)

    def look(proof: GroupProof) -> OnlineProof:
        group, name = proof.group, proof.group.name
        say(f"comparing {name} with the online store")
        for _ in range(2):
            taken = materialized_rows(store, store.get_feature_view(name))
            delivered, vouched, position = read_rows(folder, group), record.rows[name], record.positions[name]
            found = check(proof, delivered, vouched, position, read, applied(name), taken, span)
            if not found.unexplained:
                break
        return found

    return look


def _served(
    repo: Repo, folder: Path, record: StreamRecord, say: Say, span: tuple[int, int] | None
) -> Callable[[GroupProof], ServedProof | None] | None:
    """How to look at what the server answered of a group, as far as its log goes back (None: there is no log)."""
    from serving.request_log import read_requests

    where = repo.settings.request_log(repo.path)
    if where is None or not where.is_dir():
        return None
    requests = read_requests(where)
    timeout = round(float(repo.settings.serve.get("timeout_seconds", TIMEOUT_US / 1e6)) * 1e6)
    stamps = emission_stamps(folder, record.positions, repo.groups)

    def look(proof: GroupProof) -> ServedProof | None:
        group = proof.group
        delivered = read_rows(folder, group)  # after the requests: it has what they were answered with
        readable = record.readable(delivered, group, stamps)
        history = offline_rows(repo.data, group, record.run) if record.run is not None else None
        found = check_served(requests, proof, delivered, readable, history, timeout, span, partial(read_earlier, folder, group))
        if found is not None:
            say(f"compared {found.answers:,} answers of {group.name}")
        return found

    return look


def _notices(repo: Repo, record: StreamRecord) -> list[str]:
    """What to know when reading the result."""
    out = []
    if record.run is not None:
        changed = changed_files(repo, runs.find(repo.data, record.run), record.begin)
        if changed:
            some = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            out.append(
                f"the history is not the one the stream started from: {some} changed since run {record.run}; this may cause differences"
            )
    if record.ahead:
        out.append(
            f"{record.ahead:,} rows were delivered after the stream's last checkpoints and are ignored: it is running, or was killed"
        )
    return out


def _short_windows(proof: GroupProof, events: pa.Table, run: runs.Run | None) -> list[str]:
    """A line if rows of the group reach back before the first event of the topics, where the batch run ``run`` has that history (None: no
    run has).

    The stream began with empty windows: its rows are equal to batch's over its own events, and short of batch's over all.
    """
    if run is None or not events.num_rows:
        return []
    group = proof.group
    first = int(column_us(events, group.source.event_time).min())
    if first <= _us_of(run.head.range[0]):
        return []  # the topics hold what the run holds
    boundary = column_us(proof.newest.rows, EVENT_TIMESTAMP) - group.delay_us
    short = int(((boundary - group.longest_us < first) & (boundary > first)).sum())
    if not short:
        return []
    return [
        f"short windows: {short:,} rows of {group.name} reach back before {instant(first):%Y-%m-%d %H:%M}, where the topics begin; the"
        f" stream began without run {run.id}, which has that history. Start it with '--reset --from-run latest'"
    ]


def _stream_run(repo: Repo, name: str) -> str | None:
    """The id of the stream's latest run."""
    found = [r.id for r in runs.list_runs(repo.data) if r.kind == "stream" and r.head.name == name]
    return found[-1] if found else None
