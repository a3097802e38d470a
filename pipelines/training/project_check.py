"""``tandem check``: the mistakes that a job would find after minutes, found on a hundred rows. Nothing is written, applied or recorded."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import analysis
from pipelines.batch.in_process import Analysis
from pipelines.feature_store.feature_services import short_ttl
from pipelines.feature_store.store_check import check_stores
from pipelines.lake.counted import counted
from pipelines.lake.value_code import modules_of
from pipelines.project.mistakes import one_line
from pipelines.project.repository import Repo
from pipelines.sources.event_files import EventFile, events, inventory, passed_over_line
from pipelines.training import trial
from pipelines.training.definition import Model
from pipelines.training.kept_checks import KeptChecks
from pipelines.training.model_check import KnownFeatures, check_features, check_named, check_names, check_services, read_services
from pipelines.training.unseen_fields import unseen_fields
from pipelines.training.user_code import load_function
from serving.registry_place import has_store
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import EventSource, FeatureGroup
from transforms.errors import DataError, TandemError
from transforms.instants import now_us

__all__ = ["PARTS", "check_project"]

PARTS = ("contracts", "preprocessing", "models")
"""What can be checked alone: sources on the first events; functions, traced and run; feature services and models."""
ALONE = ("stores", "topics")
"""What is checked where it is asked for by name, as its servers need not be there where a repository is checked: whether the online store
and the registry answer, and the contract of each source on the newest records of its topic."""

EVENTS = 2_000
ROWS = 100


def check_project(
    repo: Repo,
    say: Callable[[str], None] = lambda line: None,
    wrong: Callable[[str], None] = lambda line: None,
    rows: bool = True,
    parts: Collection[str] = PARTS,
    kept: KeptChecks | None = None,
) -> list[str]:
    """What is wrong with a repository whose definitions could be loaded, one line each; empty where nothing is. ``say`` and ``wrong`` are
    told what is fine and what is not as soon as it is known, what takes long last.

    The contract of each source on the first events of its files; each preprocessing_fn, traced and (with ``rows``) analyzed and applied
    to a hundred rows; feature services; and of each model its functions, features, keys and types. What the definitions and the
    files' texts tell comes first: while that has mistakes, nothing is traced, for which TensorFlow has to be loaded. ``parts``: those of
    :data:`PARTS` or :data:`ALONE` alone. ``kept``: what was right before and follows from nothing that is another by now is taken from
    there, and is said.
    """
    kept = KeptChecks(repo.path, repo.settings.definitions, None) if kept is None else kept
    with tempfile.TemporaryDirectory(prefix="tandem-check-") as folder:
        return _check(_Asked(repo, kept, Path(folder)), say, wrong, rows, parts)


def _check(asked: _Asked, say: Callable[[str], None], wrong: Callable[[str], None], rows: bool, parts: Collection[str]) -> list[str]:
    repo, kept, some = asked.repo, asked.kept, asked.some
    found: list[str] = []

    def right(work: Callable[[], str]) -> str | None:
        """What it says; None where it finds a mistake, which is told."""
        try:
            return work()
        except TandemError as error:
            problem = " ".join(str(error).split())
        except Exception as error:  # the user's code, or what it calls
            problem = one_line(error)
        if problem not in found:  # one mistake may stand in the way of several parts
            found.append(problem)
            wrong(problem)
        return None

    def tried(work: Callable[[], str]) -> None:
        if line := right(work):
            say(line)

    functions = [g for g in repo.groups.values() if g.preprocessing_fn is not None and {"preprocessing", "models"} & set(parts)]
    models = repo.settings.models if "models" in parts else ()
    outputs = {group.name: before["outputs"] for group in functions if (before := asked.traced(group)) is not None}
    waiting = [group.name for group in functions if group.name not in outputs]
    features = KnownFeatures(repo, outputs, waiting)
    analyzed = rows and "preprocessing" in parts
    names: list[Callable[[], str]] = [
        *(partial(check_named, repo, str(group.preprocessing_fn), repo.attribute) for group in functions),
        *(partial(check_names, repo, reference) for reference in models),
    ]
    definitions: list[Callable[[], str]] = [
        partial(check_services, features),
        *(partial(check_features, repo, reference, features) for reference in models),
    ]
    traces: list[Callable[[], str]] = [
        *(partial(_traced, asked, group, features, analyzed) for group in functions),
        *([partial(check_services, features)] if "models" in parts else []),
        *(partial(_model, asked, reference, features) for reference in models),
    ]
    early = [right(work) for work in names]
    if "models" in parts and (models or has_store(repo.path)):
        right(partial(read_services, repo, features))
    early += [right(work) for work in definitions]
    if analyzed or "contracts" in parts:
        for name, source in repo.sources.items():
            tried(partial(_contract, repo, source, some, name, say))
    if waiting and None in early:
        left = f"preprocessing of {', '.join(waiting)}" + (", functions of models" if models else "")
        say(f"nothing is traced until the errors above are corrected: {left}")
    else:
        if waiting:  # their modules load TensorFlow, some seconds in which nothing else is said
            say(f"tracing preprocessing functions of {counted(waiting, 'group')}: loading TensorFlow")
        for work in traces:
            tried(work)
    if "stores" in parts:
        tried(partial(check_stores, repo))
    if "topics" in parts:
        from pipelines.training.topic_check import check_topic  # formats and clients of brokers are not what a check of files waits for

        for source in (s for s in repo.sources.values() if s.topic):
            tried(partial(check_topic, repo, source, say))
    if analyzed and not features.untraced:
        tried(partial(_analyzed, asked, say))
    for group in repo.groups.values():
        if line := short_ttl(group):
            say(line)
    for what, why in kept.refused.items():
        say(f"{what} is checked again each time: {why}")
    if kept.used:
        are = "is" if kept.used == 1 else "are"
        say(f"{counted(kept.used, 'result')} {are} cached, since nothing they depend on changed; --no-cache checks again")
    return found


class _Asked:
    """What is asked about a repository, by the keys under which answers are kept; ``folder`` is for files meanwhile."""

    def __init__(self, repo: Repo, kept: KeptChecks, folder: Path) -> None:
        self.repo, self.kept, self.folder = repo, kept, folder
        self.some: dict[str, pa.RecordBatch] = {}
        """The first events of each source."""
        self.begun: dict[str, Analysis] = {}
        self._traced: dict[str, tuple[str | None, dict[str, Any] | None]] = {}

    def traced(self, group: FeatureGroup) -> dict[str, Any] | None:
        """What was said of a group's function; looked for once."""
        if group.name not in self._traced:
            key = self._key(group, "traced")
            found = self.kept.find(key)
            self._traced[group.name] = key, found if found and isinstance(found.get("outputs"), dict) else None
        return self._traced[group.name][1]

    def keep_traced(self, group: FeatureGroup, said: str, outputs: dict[str, str]) -> None:
        """It was traced just now."""
        self.kept.keep(self._traced[group.name][0], said, outputs=outputs)

    def analyzed(self, group: FeatureGroup, rows: pa.RecordBatch) -> str | None:
        """The key of a run over these rows."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
        digest = hashlib.sha256(sink.getvalue()).hexdigest()
        return self._key(group, "analyzed", digest)

    def _key(self, group: FeatureGroup, *facts: str) -> str | None:
        function = group.preprocessing_fn or ""
        modules = modules_of(group) | {function.partition(":")[0]}
        return self.kept.key(f"preprocessing of {group.name}", modules, [*facts, group.definition_hash()], function=function)

    def loaded(self, references: tuple[str, ...]) -> None:
        """Load functions, or know that they load."""
        modules = {reference.partition(":")[0] for reference in references}
        key = self.kept.key(f"loading {', '.join(sorted(modules))}", modules, ["loaded", references], importing=True)
        if self.kept.find(key) is None:
            for reference in references:
                load_function(self.repo.path, reference)
            self.kept.keep(key, "loaded")


def _contract(repo: Repo, source: EventSource, some: dict[str, pa.RecordBatch], name: str, say: Callable[[str], None]) -> str:
    if source.topic and repo.settings.kafka.format_of(name) != "json":
        from pipelines.sources.formats.record_format import record_format  # not what a repository of JSON waits for

        record_format(source, repo.settings.kafka)
    if not source.files:
        return f"source {name}: no event files"
    folder = repo.data / source.files
    if not folder.is_dir():
        return f"source {name}: no event files yet: there is no folder {folder}"
    reasons: Counter[str] = Counter()
    valid: list[pa.RecordBatch] = []
    there = inventory(repo.data, source, None, None, hashes=False)
    if line := passed_over_line({name: there.passed_over}):
        say(line)
    if not there.files:
        return f"source {name}: no event files yet in {folder}"
    for batch, letters in _first(repo, source, there.files):
        valid.append(batch)
        fields = letters.column("reason").to_pylist()
        reasons.update(fields)
        if sum(b.num_rows for b in valid) + sum(reasons.values()) >= EVENTS:
            break
    taken = pa.Table.from_batches(valid, source.arrow_schema).combine_chunks()
    some[name] = next(iter(taken.to_batches()), pa.RecordBatch.from_pylist([], schema=source.arrow_schema))
    told = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    if not taken.num_rows and reasons:
        refused = f"its contract accepts none of the first {sum(reasons.values()):,} events ({told})"
        raise DataError(f"source {name!r}: {refused}; correct one of them")
    for line in unseen_fields(repo.data, source, taken):
        say(line)
    return f"source {name}: {counted(taken.num_rows, 'event')} accepted, rejected: {told or 'none'}"


def _first(repo: Repo, source: EventSource, files: Iterable[EventFile]) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    ahead = round(repo.settings.batch.max_future_hours * 3.6e9)
    for file in files:
        read = events(file.path, source, now_us(), ahead, name=file.name, batch_rows=EVENTS, partitions=file.partitions)
        yield from islice(read, 1)


def _traced(asked: _Asked, group: FeatureGroup, features: KnownFeatures, analyzed: bool) -> str:
    if (before := asked.traced(group)) is not None:
        return f"{before['said']} (cached)"
    function = asked.repo.preprocessing_fn(group)
    assert function is not None
    batch = asked.some.get(group.source.name) if analyzed else None
    if batch is not None and batch.num_rows:  # it is run on rows afterwards, which goes on with what is traced here
        made, begun = analysis.begin_analysis(group, function, asked.folder / "analyses" / group.name)
        if begun is not None:
            asked.begun[group.name] = begun
    else:
        made = analysis.outputs_of(group, function)
    features.add({group.name: made})
    said = f"group {group.name}: {group.preprocessing_fn} gives {', '.join(f'{n} ({k})' for n, k in made.items())}"
    asked.keep_traced(group, said, made)
    return said


def _analyzed(asked: _Asked, say: Callable[[str], None]) -> str:
    """Analyzers learn from a hundred rows, and the graphs are applied to them one by one."""
    groups = {name: group for name, group in asked.repo.groups.items() if group.preprocessing_fn is not None}
    if not groups:
        return "no preprocessing functions"
    rows: dict[str, pa.RecordBatch] = {}
    for name, group in groups.items():
        batch = asked.some.get(group.source.name)
        if batch is not None and batch.num_rows:
            times = pc.min_max(batch.column(batch.schema.get_field_index(group.source.event_time)).cast(pa.int64())).as_py()
            made = rows_between(merge([tile(batch, group)], group), group, times["min"] - 1, times["max"] + group.longest_us)
            rows[name] = made.slice(0, ROWS)
    if not rows:
        return "no event files to make rows of: preprocessing functions are traced, not run"
    keys = {name: asked.analyzed(groups[name], made) for name, made in rows.items()}
    waiting = [name for name, key in keys.items() if asked.kept.find(key) is None]
    if waiting:
        work = {name: (groups[name], function, rows[name]) for name in waiting if (function := asked.repo.preprocessing_fn(groups[name]))}
        trial.try_groups(work, asked.folder, asked.begun, say)
        for name in waiting:
            asked.kept.keep(keys[name], "runs")
    before = [name for name in rows if name not in waiting]
    told = f"; {', '.join(before)} (cached)" if before else ""
    return f"preprocessing of {', '.join(rows)} runs on {ROWS} rows{told}"


def _model(asked: _Asked, reference: str, features: KnownFeatures) -> str:
    model: Model = asked.repo.attribute(reference)
    asked.loaded((model.spine, model.preprocessing_fn, model.run_fn))
    return check_features(asked.repo, reference, features)
