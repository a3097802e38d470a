"""What is there: runs, applied graphs, models, training sets, streams, as far as a plan looks at them. Reads alone, and no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pipelines.batch.run_key import engine_code
from pipelines.lake import layout, provenance
from pipelines.lake.graphs import applied_graphs, carried_over, hash_of
from pipelines.lake.process_identity import ProcessId
from pipelines.lake.run_records import BatchRecord, RunRecord
from pipelines.lake.runs import UNDER_WAY, Run, RunStore
from pipelines.project.repository import Repo
from pipelines.registry.alias_file import current, model_folder, models_of, versions_on_disk
from pipelines.registry.listing import spec_of, state_of
from pipelines.sources.formats.reading import reading_of
from pipelines.sources.tables.snapshots import table_news
from pipelines.streaming.state.checkpoint_records import checkpoint_records, is_stream
from pipelines.streaming.state.start_position import check_same_definitions
from pipelines.training.training_set_record import TrainingSetRecord
from serving.aliases import ALIASES, Aliases
from serving.request_errors import ModelError
from transforms.definitions import EventSource, FeatureGroup
from transforms.errors import DataError, TandemError

__all__ = ["Present", "Stream", "TrainingSet", "Version", "bytes_of", "whole_range"]


@dataclass(frozen=True)
class Version:
    """A model's version: ``aliases`` (``champion``: it is in use), the graphs that it was trained on, whether it fits those applied now,
    and the run that trained it (empty: it does not say)."""

    model: str
    version: int
    aliases: tuple[str, ...]
    fingerprints: Mapping[str, str]
    fits: bool
    run: str = ""


@dataclass(frozen=True)
class TrainingSet:
    """A training set, and the graphs that its rows are of."""

    id: str
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Stream:
    """A stream that was started once: whether it runs now, and why it cannot go on at its checkpoint (empty: it can, or has none).
    ``otherwise``: by source which of ``kafka.formats`` and ``kafka.format_options`` are not those that its newest run began with."""

    name: str
    running: bool
    checkpoint: bool
    misfit: str
    otherwise: tuple[str, ...] = ()


class Present:
    """A data folder, which need not be there yet."""

    def __init__(self, repo: Repo) -> None:
        self.repo, self.data = repo, repo.data
        self.applied = applied_graphs(self.data)
        self._latest: dict[str, RunRecord | None] = {}
        self._tables: dict[str, tuple[str, str]] = {}

    @cached_property
    def batch_runs(self) -> list[tuple[Run, BatchRecord]]:
        """The complete batch runs, newest first."""
        runs = RunStore(self.data).as_written(BatchRecord.KIND, "complete")
        return [(run, run.as_(BatchRecord)) for run in reversed(runs)]

    @cached_property
    def engine(self) -> dict[str, str]:
        """The engine's code that runs now."""
        return engine_code(self.batch_runs[0][1].code if self.batch_runs else None)

    @cached_property
    def libraries(self) -> dict[str, str]:
        """The versions that can change a value."""
        return provenance.library_versions()

    def runs_of(self, group: str) -> list[BatchRecord]:
        """Those that made rows of a group, newest first."""
        return [record for _, record in self.batch_runs if group in record.fingerprints and group in record.definitions]

    def latest(self, kind: str) -> RunRecord | None:
        """The newest complete run of a kind."""
        if kind not in self._latest:
            found = RunStore(self.data).as_written(kind, "complete")
            self._latest[kind] = found[-1].record if found else None
        return self._latest[kind]

    def unloaded(self, group: str) -> bool:
        """Whether the applied graph has rows that no ``tandem materialize`` loaded. False where a stream alone fills the online store."""
        applied, made = self.applied.get(group), self.latest("materialize")
        runs = [r for r in self.runs_of(group) if r.fingerprints[group] == applied]
        if not runs or made is None:
            return bool(runs) and not self.streams
        return runs[0].created > made.created or made.fingerprints.get(group, applied) != applied

    def trained_over(self, model: str) -> tuple[datetime, datetime] | None:
        """The range of the newest training of a model."""
        runs = [r for r in RunStore(self.data).as_written("train", "complete") if r.head.model == model]
        return whole_range([r.head.range for r in runs[-1:]])

    def table_news(self, source: EventSource) -> tuple[str, str]:
        """(how a source's table moved on since its snapshot, what a plan cannot tell of it): both empty where it is as it was."""
        if source.table is None:
            return "", ""
        if source.name not in self._tables:
            try:
                self._tables[source.name] = table_news(self.data, source)
            except TandemError as error:
                self._tables[source.name] = "", f"its table cannot be read here; a run will use its state at that time: {error}"
        return self._tables[source.name]

    def fits(self, group: FeatureGroup) -> bool:
        """Whether the graph that is applied to a group holds for its present definition."""
        fingerprint = self.applied.get(group.name)
        if fingerprint is None:
            return False
        try:
            return carried_over(self.data, group, hash_of(self.data, group.name, fingerprint)) is not None
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @cached_property
    def versions(self) -> list[Version]:
        """The versions of every model, newest first."""
        out = []
        for model in models_of(self.data):
            folder = model_folder(self.data, model)
            try:
                aliases = current(folder)
            except ModelError:
                aliases = Aliases()
            for number in reversed(versions_on_disk(folder)):
                spec = spec_of(folder / str(number))
                named = tuple(a for a in ALIASES if getattr(aliases, a) == number)
                fits = state_of(folder / str(number), spec, self.applied) == "fits"
                out.append(Version(model, number, named, dict(spec.get("fingerprints") or {}), fits, str(spec.get("run") or "")))
        return out

    @cached_property
    def training_sets(self) -> list[TrainingSet]:
        """The training sets that can be read, by name."""
        folders = sorted(p.parent for p in layout.training(self.data).glob(f"*/{layout.MANIFEST}"))
        return [TrainingSet(f.name, made.fingerprints) for f in folders if (made := TrainingSetRecord.load_known(f)) is not None]

    @cached_property
    def streams(self) -> list[Stream]:
        """The streams, by name."""
        folders = sorted(layout.streams(self.data).glob("*")) if layout.streams(self.data).is_dir() else []
        return [self._stream(folder) for folder in folders if is_stream(folder)]

    def _stream(self, folder: Path) -> Stream:
        try:
            points = {n: r["checkpoint"] for n, r in checkpoint_records(folder).items()}
            check_same_definitions(self.repo, points)
            why = ""
        except DataError as error:
            points, why = {0: {}}, str(error)
        return Stream(folder.name, self._running(folder.name), bool(points), why, self._otherwise(folder.name) if points else ())

    def _otherwise(self, name: str) -> tuple[str, ...]:
        runs = [
            run for run in RunStore(self.data).as_written("stream", "complete", "failed", "killed", *UNDER_WAY) if run.head.name == name
        ]
        then, out = (runs[-1].manifest.get("reading") or {}) if runs else {}, []
        for source in sorted({g.source.name for g in self.repo.groups.values()} & set(then)):
            now, before = reading_of(source, self.repo.settings.kafka), then[source]
            if now["format"] != before.get("format"):
                out.append(f"{source}: kafka.formats {before.get('format')} -> {now['format']}")
            elif now["options"] != before.get("options"):
                out.append(f"{source}: kafka.format_options")
        return tuple(out)

    def _running(self, name: str) -> bool:
        for run in RunStore(self.data).as_written("stream", *UNDER_WAY):
            process = ProcessId.of_manifest(run.manifest)
            if run.head.name == name and process is not None and process.alive is not False:
                return True
        return False


def whole_range(ranges: Iterable[Sequence[str]]) -> tuple[datetime, datetime] | None:
    """From the first to the last moment of some ranges, as manifests have them; None of none."""
    moments = [[datetime.fromisoformat(t).astimezone(UTC) for t in r] for r in ranges if len(r) == 2]
    return (min(a for a, _ in moments), max(b for _, b in moments)) if moments else None


def bytes_of(record: BatchRecord, group: str) -> int:
    """The bytes of the rows that a run made of a group."""
    return sum(int(o["bytes"]) for o in record.outputs if o["name"].startswith(f"offline/{group}/"))
