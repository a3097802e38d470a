"""The jobs of a batch run: events to rows (windows), rows to graphs (analysis), rows and graphs to offline rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.batch import steps
from pipelines.batch.analysis import analyze_groups
from pipelines.batch.batch_engine import BatchEngine
from pipelines.batch.beam_transforms import ApplyTransformGraph, ReadEventLog, WindowFeatures
from pipelines.batch.job_notes import keep_spans, keep_stats, with_past
from pipelines.batch.learn_steps import Workers
from pipelines.batch.run_files import RunFiles
from pipelines.batch.work_place import WorkPlace, clear_run_folder
from pipelines.lake import layout, runs
from pipelines.lake.counted import counted
from pipelines.lake.run_records import with_fields
from pipelines.project.repository import Repo
from pipelines.sources.null_fields import LEAST_EVENTS, null_line
from transforms.definitions import EventSource
from transforms.errors import RejectLimitError
from transforms.instants import micros_of

__all__ = ["RowJobs"]


@dataclass(frozen=True)
class RowJobs:
    """The jobs of ``run`` over ``events``: rows with ``start_us < boundary <= end_us``. ``tiles``: group -> tile files, of the run that it
    continues. ``begin_us``: source -> the first event time that a window needs. ``graphs``: group -> fingerprint of the graph that is
    given; empty: they are learnt from the rows. ``progress`` takes lines for people."""

    repo: Repo
    run: runs.Run
    sources: Mapping[str, EventSource]
    events: RunFiles
    tiles: Mapping[str, Sequence[str]]
    begin_us: Mapping[str, int]
    start_us: int
    end_us: int
    graphs: Mapping[str, str]
    engine: BatchEngine
    progress: Callable[[str], None]

    def make(self) -> None:
        """Run them; the run has dead letters, tiles and offline rows in its folder, and is at ``publishing`` then. Raises RejectLimitError,
        before anything is learnt, for too many rejected events: it has the dead letters then."""
        clear_run_folder(self.run)
        shutil.rmtree(self.run.folder / "engine", ignore_errors=True)
        with WorkPlace(self.repo.data, self.run, self.engine.elsewhere).attempt() as place:
            self._windows(place)
            counts = self._note_counts(place)
            place.hand_over("dead_letters")
            self._check_rejects(counts)
            rows = {n: sorted(str(p) for p in (place.folder / "rows" / n).rglob("*.parquet")) for n in self.repo.groups}
            fingerprints = dict(self.graphs) or self._learn(place, rows)
            nonfinite = self._transform(place, rows, fingerprints)
            place.hand_over("tiles", "offline")
            self.run.save(status="publishing", fingerprints=fingerprints, nonfinite=nonfinite)

    @property
    def _created_us(self) -> int:
        return micros_of(datetime.fromisoformat(self.run.created))

    def _windows(self, place: WorkPlace) -> None:
        """Events to rows, tiles, dead letters, and what was counted."""
        repo, settings, events = self.repo, self.repo.settings.batch, self.events
        total = sum(len(f) for f in events.files.values())
        self.progress(
            f"windows: {counted(total, 'file')} of {counted(events.files, 'source')} into {counted(repo.groups, 'feature group')}"
        )
        with self.engine.pipeline(self.run.folder) as pipeline:
            stats, spans = [], []
            for name, source in self.sources.items():
                log = pipeline | f"Events of {name}" >> ReadEventLog(
                    source,
                    place.events(events.files[name]),
                    self.begin_us[name],
                    self.end_us,
                    self._created_us,
                    round(settings.max_future_hours * 3.6e9),
                    f"{place.top}/dead_letters",
                    events.begins[name],
                    None if self.engine.alone else settings.split_bytes,
                )
                stats.append(log.stats)
                spans.append(log.spans)
                for group in (g for g in repo.groups.values() if g.source.name == name):
                    made = log.valid | f"Features {group.name}" >> WindowFeatures(
                        group,
                        settings.shards,
                        steps.slice_us(group, settings.slice_days),
                        self.start_us,
                        self.end_us,
                        f"{place.top}/rows",
                        f"{place.top}/tiles",
                        place.files(self.tiles.get(group.name, ())),
                    )
                    stats.append(made.stats)
            keep_stats(stats, f"{place.top}/stats.json")
            keep_spans(spans, f"{place.top}/spans.json")
        place.bring(("rows", "tiles", "dead_letters"), ("stats.json", "spans.json"))

    def _note_counts(self, place: WorkPlace) -> Mapping[str, int]:
        """Note in the manifest what was counted, and tell people what is odd; the counts, by what and of what (``read/flights``)."""
        folder, shards = place.folder, self.repo.settings.batch.shards
        counts: dict[str, int] = json.loads((folder / "stats.json").read_text())
        misplaced, nulls = _of(counts, "misplaced"), _null_fields(counts)
        if misplaced:
            named = ", ".join(f"{n:,} of {source}" for source, n in misplaced.items())
            self.progress(
                f"events in a date= folder of another day (UTC): {named}; a run that does not read that day does not see them:"
                " put each below its own day, or give folders by other days another name"
            )
        for where, total in nulls.items():
            of, _, field = where.partition("/")
            self.progress(null_line(self.repo.sources[of], field, total))
        self.run.save(
            events=_of(counts, "read"),
            filtered=_of(counts, "filtered"),
            empty=_of(counts, "empty"),
            misplaced=misplaced,
            null_fields=nulls,
            spans=with_past(json.loads((folder / "spans.json").read_text()), self.events.spans),
            rejected=_of(counts, "rejected"),
            rejected_fields=_of(counts, "rejected_fields"),
            rows=_of(counts, "rows"),
            tiles={"end_us": self.end_us, "shards": shards, "groups": {n: counts.get(f"tiles/{n}", 0) for n in self.repo.groups}},
        )
        return counts

    def _check_rejects(self, counts: Mapping[str, int]) -> None:
        """Raises RejectLimitError when too many events were rejected."""
        rejected, read, limit = _of(counts, "rejected"), sum(_of(counts, "read").values()), self.repo.settings.batch.max_reject_share
        share = sum(rejected.values()) / max(read, 1)
        if share > limit:
            worst = max(rejected, key=lambda k: rejected[k])
            raise RejectLimitError(
                f"{sum(rejected.values())} of {read} events were rejected ({share:.2%}, limit {limit:.2%}),"
                f" most of them {with_fields(worst, _of(counts, 'rejected_fields'))};"
                f" see {self.run.folder / 'dead_letters'}, fix the data or raise batch.max_reject_share"
            )

    def _learn(self, place: WorkPlace, rows: Mapping[str, list[str]]) -> dict[str, str]:
        """Rows to frozen graphs; group -> fingerprint."""
        self.progress("analyzing: means, quantiles and vocabularies of the preprocessing functions")
        repo, folder = self.repo, place.folder
        work: dict[str, Any] = {n: (g, repo.preprocessing_fn(g), rows[n]) for n, g in repo.groups.items()}
        workers = Workers(self.engine, place) if self.engine.has_code else None
        share_rows = repo.settings.batch.learn_rows
        fingerprints = analyze_groups(
            work, layout.graphs(repo.data), progress=self.progress, temp_dir=folder, share_rows=share_rows, workers=workers
        )
        shutil.rmtree(folder / "learn", ignore_errors=True)
        return fingerprints

    def _transform(self, place: WorkPlace, rows: Mapping[str, list[str]], fingerprints: Mapping[str, str]) -> dict[str, int]:
        """Rows and graphs to offline rows; how many values are NaN or infinite, by group and feature."""
        self.progress("transforming rows")
        with self.engine.pipeline(self.run.folder) as pipeline:
            stats = []
            for name in self.repo.groups:
                graph = place.graph(name, fingerprints[name])
                transformed = pipeline | f"Graph of {name}" >> ApplyTransformGraph(
                    name, place.files(rows[name]), graph, f"{place.top}/rows", f"{place.top}/offline", self._created_us
                )
                stats.append(transformed.stats)
            keep_stats(stats, f"{place.top}/nonfinite.json")
        place.bring(("offline",), ("nonfinite.json",))
        odd: dict[str, int] = json.loads((place.folder / "nonfinite.json").read_text())
        if odd:
            named = ", ".join(f"{n:,} of {feature}" for feature, n in odd.items())
            self.progress(
                f"values that are NaN or infinite: {named}; they are stored as they are, and null over HTTP: correct the preprocessing"
            )
        return odd


def _of(counts: Mapping[str, int], what: str) -> dict[str, int]:
    """The counts of one kind by what they are of, in order."""
    return {k.removeprefix(f"{what}/"): n for k, n in sorted(counts.items()) if k.startswith(f"{what}/")}


def _null_fields(counts: Mapping[str, int]) -> dict[str, int]:
    """``<source>/<field>`` -> the valid events read, of the fields that are null in all of them, where these are enough to tell."""
    taken = _of(counts, "read")
    for where, n in _of(counts, "rejected").items():
        taken[where.split("/")[0]] -= n
    return {name: n for name, n in _of(counts, "null").items() if n == taken[name.split("/")[0]] and n >= LEAST_EVENTS}
