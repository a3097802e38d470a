"""``tandem vacuum``: what is old, beyond a count, and needed by nothing any more.

**Never taken**: what is younger than the age, or among the newest of its kind; a model that is champion, was one, or is challenger; the
training set of a model that stays; a run that a run, a training set or a stream that stays names; a batch run of the applied graphs that
no newer one covers whole; what runs now. What is needed is found first, to the end of the chain, and only then is anything taken; should a
file that says what is needed not be readable, nothing is. While something is taken no run begins, and none is under way but of those
that last (streams, servers, watches), whose needs are among the above.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.lake import layout, runs
from pipelines.lake.graphs import applied_graphs
from pipelines.project.repository import Repo
from pipelines.registry.alias_file import current, models_of, versions_on_disk
from transforms.errors import DataError

__all__ = ["Thing", "candidates", "vacuum"]

_REPORTS = ("verify", "monitor")
_LASTING = ("stream", "serve", "watch", "replay", "demo")
"""Kinds of runs that do not hinder: a demo's steps are runs of their own."""


@dataclass(frozen=True)
class Thing:
    """Something that may go as a whole: its ``kind``, its name, its folders and files, when it was made, and what it says it is made of."""

    kind: str
    name: str
    paths: tuple[Path, ...]
    made: datetime
    text: str = ""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for p in self.paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file())


def candidates(repo: Repo) -> tuple[list[Thing], set[str]]:
    """Everything that may go, and the names of what is needed. Raises DataError for a manifest that cannot be read, ModelError."""
    data = repo.data
    if broken := runs.damaged(data):
        raise DataError(f"nothing is taken: what {broken[0]}; repair or delete it first")
    things, needed = [*_runs(data), *_training_sets(data), *_request_days(repo), *_reports(data), *_row_logs(data)], set[str]()
    for model in models_of(data):
        folder = layout.model(data, model)
        aliases = current(folder)
        for version in versions_on_disk(folder):
            place = folder / str(version)
            thing = Thing(f"models/{model}", f"{model}/{version}", (place,), _changed(place), _said(place / "tandem.json"))
            things.append(thing)
            if version in (*aliases.champions, aliases.champion, aliases.challenger):
                needed.add(thing.name)
    needed |= _batches_in_use(data)
    needed |= {run.id for run in runs.list_runs(data) if run.status in runs.UNDER_WAY}
    for path in layout.streams(data).glob("*/checkpoints/**/*.jsonl"):
        needed |= {t.name for t in things if t.kind.startswith("runs/") and t.name in path.read_text(errors="replace")}
    return things, needed


def _said(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"nothing is taken: {path} cannot be read ({error}); repair or delete it first") from None


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _runs(data: Path) -> Iterable[Thing]:
    for run in runs.list_runs(data):
        rows = tuple(p for p in layout.offline(data).glob(f"*/run={run.id}") if p.is_dir())
        made = datetime.fromisoformat(run.created)
        made = made if made.tzinfo is not None else made.replace(tzinfo=UTC)
        yield Thing(f"runs/{run.kind}", run.id, (Path(run.folder), *rows), made, _said(Path(run.folder) / layout.MANIFEST))


def _training_sets(data: Path) -> Iterable[Thing]:
    for path in layout.training(data).glob(f"*/{layout.MANIFEST}"):
        yield Thing("training", path.parent.name, (path.parent,), _changed(path), _said(path))


def _request_days(repo: Repo) -> Iterable[Thing]:
    folder = repo.settings.request_log(repo.path) or layout.requests(repo.data)
    for path in [*folder.glob("date=*"), *folder.glob("shadow/date=*")]:
        if day := re.fullmatch(r"date=(\d{4}-\d\d-\d\d)", path.name):
            name = path.relative_to(folder).as_posix()
            yield Thing("requests", f"requests/{name}", (path,), datetime.fromisoformat(day[1]).replace(tzinfo=UTC) + timedelta(days=1))


def _reports(data: Path) -> Iterable[Thing]:
    for kind in _REPORTS:
        for path in (data / kind).glob("*"):
            if path.is_dir() and not path.name.startswith("."):
                yield Thing(kind, f"{kind}/{path.name}", (path,), _changed(path))


def _row_logs(data: Path) -> Iterable[Thing]:
    """Sealed segments: an open one is being written."""
    for path in [*layout.streams(data).glob("*/rows/*/*.parquet"), *layout.streams(data).glob("*/late/*/*.parquet")]:
        kind = f"stream/{path.relative_to(layout.streams(data)).parts[0]}/rows"
        yield Thing(kind, path.relative_to(data).as_posix(), (path,), _changed(path))


def _batches_in_use(data: Path) -> set[str]:
    """The complete batch runs of applied graphs but for those that a newer one of the same graphs covers whole."""
    applied, out, later = applied_graphs(data), set[str](), list[tuple[dict[str, str], list[str]]]()
    for run in reversed([r for r in runs.list_runs(data) if r.kind == "batch" and r.status == "complete"]):
        mine: dict[str, str] = dict(run.record.fingerprints)
        if not any(applied.get(group) == fingerprint for group, fingerprint in mine.items()):
            continue
        span = [str(t) for t in (run.head.range or ())]
        whole = any(mine == theirs and len(span) == 2 == len(s) and _within(span, s) for theirs, s in later)
        if not whole:
            out.add(run.id)
        later.append((mine, span))
    return out


def _within(inner: list[str], outer: list[str]) -> bool:
    (a, b), (c, d) = ([datetime.fromisoformat(t) for t in each] for each in (inner, outer))
    return c <= a and b <= d


def vacuum(
    repo: Repo, now: datetime, older_than: timedelta, keep: int = 10, kinds: tuple[str, ...] = (), dry_run: bool = False
) -> list[dict[str, Any]]:
    """Take what is older than ``older_than``, not among the newest ``keep`` of its kind, and not needed; what went, with bytes.

    ``kinds``: only these (``runs``, ``training``, ``requests``, ``verify``, ``monitor``, ``models``, ``stream``). Raises DataError,
    ModelError, and takes nothing then.
    """
    with nullcontext() if dry_run else runs.RunStore(repo.data).alone(_LASTING):
        return _vacuum(repo, now, older_than, keep, kinds, dry_run)


def _vacuum(repo: Repo, now: datetime, older_than: timedelta, keep: int, kinds: tuple[str, ...], dry_run: bool) -> list[dict[str, Any]]:
    things, needed = candidates(repo)
    by_kind: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        by_kind[thing.kind].append(thing)
    going: list[Thing] = []
    for kind, each in by_kind.items():
        newest = {t.name for t in sorted(each, key=lambda t: (t.made, t.name))[-keep:]} if keep else set[str]()
        chosen = not kinds or kind.partition("/")[0] in kinds
        going += [t for t in each if chosen and now - t.made > older_than and t.name not in newest and t.name not in needed]
    while True:  # what a thing that stays names, stays
        gone = {t.name for t in going}
        text = "\n".join(t.text for t in things if t.name not in gone)
        spared = {name for name in gone if name in text}
        if not spared:
            break
        going = [t for t in going if t.name not in spared]
    out = []
    for thing in sorted(going, key=lambda t: (t.kind, t.made, t.name)):
        out.append({"kind": thing.kind, "name": thing.name, "made": thing.made.isoformat(), "bytes": thing.size})
        if not dry_run:
            for path in thing.paths[::-1]:  # rows before the manifest that tells of them
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return out
