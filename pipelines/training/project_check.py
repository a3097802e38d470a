"""``tandem check``: the mistakes that a job would find after minutes, found on a hundred rows. Nothing is written, applied or recorded."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch.analysis import analyze_groups, outputs_of
from pipelines.feature_store.services import check_fields, defined_services
from pipelines.feature_store.store_check import check_stores
from pipelines.project.mistakes import one_line
from pipelines.project.repository import Repo
from pipelines.sources.event_files import events, list_files
from pipelines.training.definition import Model
from pipelines.training.user_code import load_function
from serving.projections import FeatureSet
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import RESERVED, EventSource, FeatureGroup
from transforms.errors import DataError, TandemError
from transforms.instants import now_us

__all__ = ["PARTS", "check_project"]

PARTS = ("contracts", "preprocessing", "models")
"""What can be checked alone: sources on the first events; functions, traced and run; feature services and models."""
ALONE = "stores"
"""What is checked where it is asked for by name: whether the online store and the registry answer, which need not be so where a repository
is checked."""

EVENTS = 2_000
ROWS = 100


def check_project(
    repo: Repo,
    say: Callable[[str], None] = lambda line: None,
    wrong: Callable[[str], None] = lambda line: None,
    rows: bool = True,
    parts: Collection[str] = PARTS,
) -> list[str]:
    """What is wrong with a repository whose definitions could be loaded, one line each; empty where nothing is. ``say`` and ``wrong`` are
    told what is fine and what is not as soon as it is known, what takes long last.

    The contract of each source on the first events of its files; each preprocessing_fn, traced and (with ``rows``) analyzed and applied
    to a hundred rows; feature services; and of each model its functions, features, keys and types. ``parts``: those of :data:`PARTS` alone,
    or :data:`ALONE`.
    """
    found: list[str] = []

    def tried(work: Callable[[], str]) -> None:
        try:
            say(work())
            return
        except TandemError as error:
            found.append(" ".join(str(error).split()))
        except Exception as error:  # the user's code, or what it calls
            found.append(one_line(error))
        wrong(found[-1])

    some: dict[str, pa.RecordBatch] = {}
    analyzed = rows and "preprocessing" in parts
    if analyzed or "contracts" in parts:
        for name, source in repo.sources.items():
            tried(lambda n=name, s=source: _contract(repo, s, some, n))  # type: ignore[misc]
    outputs: dict[str, dict[str, str]] = {}
    if {"preprocessing", "models"} & set(parts):
        functions = [n for n, g in repo.groups.items() if g.preprocessing_fn is not None]
        if functions:  # their modules load TensorFlow, some seconds in which nothing else is said
            say(f"tracing preprocessing functions of {len(functions)} group{'s' if len(functions) > 1 else ''}: loading TensorFlow")
        for group in repo.groups.values():
            if group.preprocessing_fn is not None:
                tried(lambda g=group: _traced(repo, g, outputs))  # type: ignore[misc]
    if "models" in parts:
        features = {n: {f.name: str(f.arrow_field.type) for f in g.features} | outputs.get(n, {}) for n, g in repo.groups.items()}
        services: dict[str, Any] = {}
        if (repo.path / "feature_store.yaml").is_file():
            tried(lambda: _services(repo, services, features))
        for reference in repo.settings.models:
            tried(lambda r=reference: _model(repo, repo.attribute(r), services, features))  # type: ignore[misc]
    if ALONE in parts:
        tried(lambda: check_stores(repo))
    if analyzed and all(g.preprocessing_fn is None or g.name in outputs for g in repo.groups.values()):
        tried(lambda: _analyzed(repo, some, say))
    return found


def _contract(repo: Repo, source: EventSource, some: dict[str, pa.RecordBatch], name: str) -> str:
    if source.topic and repo.settings.kafka.format_of(name) != "json":
        from pipelines.sources.formats.record_format import record_format  # not what a repository of JSON waits for

        record_format(source, repo.settings.kafka)
    if not source.files or not (repo.data / source.files).is_dir():
        return f"source {name}: no event files yet"
    reasons: Counter[str] = Counter()
    valid: list[pa.RecordBatch] = []
    for batch, letters in _first(repo, source):
        valid.append(batch)
        fields = letters.column("reason").to_pylist()
        reasons.update(fields)
        if sum(b.num_rows for b in valid) + sum(reasons.values()) >= EVENTS:
            break
    taken = pa.Table.from_batches(valid, source.arrow_schema).combine_chunks()
    some[name] = next(iter(taken.to_batches()), pa.RecordBatch.from_pylist([], schema=source.arrow_schema))
    told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    if not taken.num_rows and reasons:
        refused = f"its contract takes none of the first {sum(reasons.values()):,} events ({told})"
        raise DataError(f"source {name!r}: {refused}; correct one of both")
    return f"source {name}: {taken.num_rows:,} events taken, rejected: {told or 'none'}"


def _first(repo: Repo, source: EventSource) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    ahead = round(repo.settings.batch.max_future_hours * 3.6e9)
    for file in list_files(repo.data, source, None, None, hashes=False):
        read = events(file.path, source, now_us(), ahead, name=file.name, batch_rows=EVENTS, partitions=file.partitions)
        yield from islice(read, 1)


def _traced(repo: Repo, group: FeatureGroup, outputs: dict[str, dict[str, str]]) -> str:
    function = repo.preprocessing_fn(group)
    assert function is not None
    outputs[group.name] = outputs_of(group, function)
    return f"group {group.name}: {group.preprocessing_fn} gives {', '.join(f'{n} ({k})' for n, k in outputs[group.name].items())}"


def _analyzed(repo: Repo, some: Mapping[str, pa.RecordBatch], say: Callable[[str], None]) -> str:
    """Analyzers learn from a hundred rows, and the graphs are applied to them one by one."""
    with tempfile.TemporaryDirectory(prefix="tandem-check-") as folder:
        work: dict[str, Any] = {}
        for name, group in repo.groups.items():
            batch = some.get(group.source.name)
            if group.preprocessing_fn is None or batch is None or not batch.num_rows:
                continue
            times = pc.min_max(batch.column(batch.schema.get_field_index(group.source.event_time)).cast(pa.int64())).as_py()
            made = rows_between(merge([tile(batch, group)], group), group, times["min"] - 1, times["max"] + group.longest_us)
            path = Path(folder) / f"{name}.parquet"
            pq.write_table(pa.Table.from_batches([made.slice(0, ROWS)]), path)
            work[name] = (group, repo.preprocessing_fn(group), [str(path)])
        if not any(group.preprocessing_fn for group in repo.groups.values()):
            return "no preprocessing functions"
        if not work:
            return "no event files to make rows of: preprocessing functions are traced, not run"
        analyze_groups(work, Path(folder) / "graphs", progress=say)
        return f"preprocessing of {', '.join(work)} runs on {ROWS} rows"


def _services(repo: Repo, services: dict[str, Any], features: Mapping[str, Mapping[str, str]]) -> str:
    from serving.feast_objects import feast_objects

    check_fields(feast_objects(repo.groups.values(), repo.data).views)
    services.update(defined_services(repo.path))
    for service in services.values():
        FeatureSet.of_service(service)
        for p in service.feature_view_projections:
            known = features.get(p.name)
            missing = [n for n in p.desired_features if known is not None and n not in known]
            if missing and known is not None:
                has = ", ".join(sorted(known))
                raise DataError(f"feature service {service.name!r}: {p.name!r} has no feature {missing[0]!r}; it has {has}")
    return f"{len(services)} feature services" + (f": {', '.join(services)}" if services else "")


def _model(repo: Repo, model: Model, services: Mapping[str, Any], features: Mapping[str, Mapping[str, str]]) -> str:
    what = f"model {model.name!r}"
    for reference in (model.spine, model.preprocessing_fn, model.run_fn):
        load_function(repo.path, reference)
    if isinstance(model.features, str):
        if model.features not in services:
            raise DataError(f"{what}: no file defines the feature service {model.features!r}; there is {', '.join(services) or 'none'}")
        service = services[model.features]
        asked = FeatureSet.of_service(service)
        pending = [(p.name_to_use(), n) for p in service.feature_view_projections for n in p.desired_features]
        pairs = [pair for pair in dict.fromkeys([*asked.pairs, *pending]) if pair[1] not in RESERVED]
    else:
        asked = FeatureSet.of(model.features)
        pairs = list(asked.pairs)
    for name, feature in pairs:
        use = asked.projection(name)
        group = repo.groups.get(use.view)
        if group is None:
            continue  # a view of the user's own
        if feature not in features[use.view]:
            raise DataError(f"{what}: group {use.view!r} has no feature {feature!r}; it has {', '.join(sorted(features[use.view]))}")
        if (kind := features[use.view][feature]).startswith(("list", "timestamp")):
            raise DataError(f"{what}: {name}:{feature} is {kind}; a model takes text, numbers and truth values: leave it out")
        for key in (use.column(k) for k in group.entity.keys):
            if key not in model.entity_keys:
                raise DataError(f"{what}: the features of {name!r} are found by {key!r}, which is none of its entity_keys; add it")
    return f"{what}: {len(model.request_fields)} request fields, {len(pairs)} features"
