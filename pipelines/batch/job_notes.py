"""What the steps of a batch job tell beside their rows, gathered into JSON files that its driver reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.combiners import ToList

from pipelines.batch.steps import astray
from pipelines.lake.data_files import write_json
from pipelines.lake.file_addresses import writing

__all__ = ["keep_spans", "keep_stats", "with_past"]


def keep_stats(stats: list[Any], path: str) -> None:
    """Sum (name, number) pairs of several collections into a JSON file, at a local path or a URL."""
    _ = (
        stats
        | "All stats" >> beam.Flatten()
        | "Sum stats" >> beam.CombinePerKey(sum)
        | "Stats in one" >> ToList()
        | "Write stats" >> beam.Map(_write_stats, path)
    )


def keep_spans(spans: list[Any], path: str) -> None:
    """Event files with events of other days than their folder's into a JSON file: source -> file -> first, last event time.

    ``spans`` are of files, or of parts of them."""
    _ = (
        spans
        | "All spans" >> beam.Flatten()
        | "Span of each file" >> beam.CombinePerKey(_hull)
        | "Spans no folder tells" >> beam.Filter(astray)
        | "Spans in one" >> ToList()
        | "Write spans" >> beam.Map(_write_spans, path)
    )


def _hull(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    low, high = zip(*spans, strict=True)
    return min(low), max(high)


def _write_spans(spans: list[tuple[tuple[str, str, int | None], tuple[int, int]]], path: str) -> None:
    out: dict[str, dict[str, tuple[int, int]]] = {}
    for (source, file, _), span in sorted(spans, key=lambda each: each[0][:2]):
        out.setdefault(source, {})[file] = span
    with writing(path) as local:
        write_json(local, out)


def with_past(read: dict[str, dict[str, list[int]]], past: Mapping[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
    return {n: both for n in sorted({*read, *past}) if (both := past.get(n, {}) | read.get(n, {}))}


def _write_stats(stats: list[tuple[str, int]], path: str) -> None:
    with writing(path) as local:
        write_json(local, dict(sorted(stats)))
