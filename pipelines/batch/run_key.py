"""What decides the result of a batch run, in one value: a run of the same key is the same run. ``tandem batch`` begins runs by it, and
``tandem plan`` asks whether one would begin. Light: no Beam.

What is changed for one group leaves runs of the others as they are. Of the code the engine's parts count, and the files of the repository
that the groups of the run are made of (:mod:`pipelines.lake.value_code`); a definition counts by what it says, not by its text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake import layout, provenance, shared
from pipelines.lake.data_files import sha256
from pipelines.lake.graphs import graph_damage
from pipelines.lake.run_parts import Code, InputFile
from pipelines.lake.runs import Run, range_of
from pipelines.lake.value_code import engine_files, meanings, modules_of, repo_files_of
from pipelines.project.repository import Repo
from transforms.definitions import EventSource, FeatureGroup, micros

__all__ = ["begin_of", "code_of", "declared", "engine_code", "lost", "run_key", "seed_start", "sources_of", "superseded"]


def sources_of(groups: Iterable[FeatureGroup]) -> dict[str, EventSource]:
    """The sources that groups read, by name."""
    return {g.source.name: g.source for g in groups}


def seed_start(group: FeatureGroup, end: int) -> int:
    """The first tile that rows after ``end``, or late corrections of rows before it, can still need (microseconds)."""
    return (end - group.longest_us - group.hop_us - micros(group.source.allowed_lateness)) // group.hop_us * group.hop_us


def begin_of(groups: Iterable[FeatureGroup], start_us: int, end_us: int) -> dict[str, int]:
    """Source -> the earliest event time that rows of ``groups`` after ``start_us``, or a stream that goes on at ``end_us``, can need."""
    out: dict[str, int] = {}
    for g in groups:
        first = min(start_us - g.longest_us - g.hop_us, seed_start(g, end_us))
        out[g.source.name] = min(first, out.get(g.source.name, first))
    return out


def declared(group: FeatureGroup) -> dict[str, Any]:
    """What a definition says beside its canonical form that decides what a run makes of it: how values are learnt, how files are read,
    which tiles are kept for a stream (microseconds). JSON-able."""
    return {
        "preprocessing_fn": group.preprocessing_fn,
        "file_format": None if group.source.file_format is None else repr(group.source.file_format),
        "allowed_lateness": micros(group.source.allowed_lateness),
    }


def code_of(repo: Repo, group: FeatureGroup) -> dict[str, str]:
    """File -> what it means, of the repository's files that the values of a group are made of beside its definition."""
    files = repo_files_of(repo.path, repo.settings.definitions, modules_of(group))
    return meanings({f"repo/{f.relative_to(repo.path).as_posix()}": f for f in files})


def run_key(
    repo: Repo,
    start: datetime,
    end: datetime,
    inputs: Mapping[str, list[InputFile]],
    graphs: Mapping[str, str],
    code: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The key of the run of all groups of ``repo`` over a range: ``inputs`` are its event files by source, as a manifest names them;
    ``graphs`` the applied graphs that it goes on with (group -> fingerprint; none: it learns its own); ``code`` the engine's
    (:func:`engine_code`), where it is at hand. JSON-able."""
    code = dict(engine_code() if code is None else code)
    for group in repo.groups.values():
        code |= code_of(repo, group)
    return {
        "start": start,
        "end": end,
        "inputs": inputs,
        "definitions": {n: g.canonical() for n, g in repo.groups.items()},
        "declared": {n: declared(g) for n, g in repo.groups.items()},
        "graphs": graphs,
        "batch": repo.settings.batch.model_dump(exclude={"split_bytes"}),  # how many read a file changes nothing of what they read
        "code": code,
        "versions": provenance.library_versions(),
    }


def superseded(earlier: Run, complete: Iterable[Run], groups: Collection[str], start: datetime, end: datetime) -> bool:
    """Whether one of the ``complete`` batch runs, newer than ``earlier``, has said something about some of the rows of ``groups`` that it
    made, or would make, over a range: of what both cover the newer one decides. So a log that is as it was before a correction, or a
    definition that came back, is a run of its own."""
    for run in complete:
        if (run.created, run.id) > (earlier.created, earlier.id):
            after, upto = range_of(run) or (end, end)
            if after < end and start < upto and not set(groups).isdisjoint(run.record.fingerprints):
                return True
    return False


def lost(data: Path, run: Run) -> bool:
    """Whether rows or a graph that a batch run made are not there any more, or the graph's files are damaged: it is to be made anew. One
    that an erasure has marked lacks rows that its inputs ask for (a log that was put back). Of others a complete one is
    looked at; a cache of an object store need not hold the rows."""
    if run.record.more.get("erased"):
        return True
    if run.status != "complete":
        return False
    cached, made = shared.is_shared(data), run.record.fingerprints.items()
    return not all((cached or layout.offline_run(data, n, run.id).is_dir()) and not graph_damage(data, n, f) for n, f in made)


def engine_code(recorded: Code | None = None) -> dict[str, str]:
    """File -> what it means, of the engine's files that can change a value. What ``recorded`` has the bytes of need not be parsed."""
    out, unknown = {}, {}
    then: Code = recorded or {}
    bytes_then, meant = then.get("files") or {}, then.get("value_files") or {}
    for name, file in engine_files(provenance.engine_root()).items():
        if name in meant and bytes_then.get(name) == sha256(file)[:16]:
            out[name] = meant[name]
        else:
            unknown[name] = file
    return out | meanings(unknown)
