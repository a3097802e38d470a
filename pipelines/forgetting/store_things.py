"""What may go as a whole, in an object store: the same kinds of things as in a data folder, told by the store's lists, without copies."""

from __future__ import annotations

import io
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.forgetting.things import REPORTS, UNLISTED, Thing, end_of, left_attempts, request_days, run_made, said
from pipelines.lake import layout, runs
from pipelines.lake.file_addresses import ObjectFile
from pipelines.project.repository import Repo
from serving.object_store import leases, manifests, single_files, trees
from serving.object_store.cache import Cache
from serving.object_store.object_store import ObjectHead
from transforms.errors import DataError

__all__ = ["StoreThing", "store_checkpoints", "store_things"]

_WHOLE_BYTES = 256 << 10
_DAY = re.compile(r"requests/((?:shadow/)?date=(\d{4}-\d\d-\d\d))/.*")
_SEGMENT = re.compile(r"(stream/[^/]+/(?:rows|late))/[^/]+/[^/]+\.parquet")
_BEFORE = re.compile(r"((stream/[^/]+/before)/[^/]+)/.+")


@dataclass(frozen=True, kw_only=True)
class StoreThing(Thing):
    """One of a store: its trees, its single files, and the run whose manifest tells of them; in this order they go."""

    cache: Cache
    trees: tuple[str, ...] = ()
    files: tuple[ObjectHead, ...] = ()
    run: str = ""

    @property
    def size(self) -> int:
        return sum(trees.size(self.cache, tree) for tree in self.trees) + sum(head.size for head in self.files)

    def opened(self) -> BinaryIO:
        """What is read of it comes here, and no more; a small one at once, as that is one request."""
        (head,) = self.files
        if head.size > _WHOLE_BYTES:
            return cast(BinaryIO, ObjectFile(self.cache.store, head.key, head.size, f"{self.cache.url}/{head.key}"))
        if (found := self.cache.store.read(head.key)) is None:
            raise FileNotFoundError(head.key)
        return io.BytesIO(found.content)

    def take(self) -> None:
        for tree in self.trees:
            trees.remove(self.cache, tree)
        for head in self.files:
            single_files.remove(self.cache, head.key)
        if self.run:
            manifests.remove(self.cache, self.run)
            leases.forget(self.cache.store, f"runs/{self.run}")
            shutil.rmtree(layout.run(self.cache.folder, self.run), ignore_errors=True)


def store_things(repo: Repo, cache: Cache) -> Iterator[Thing]:
    """All of them. Raises DataError for a manifest that cannot be read."""
    heads = trees.heads(cache)
    made_by: dict[str, list[str]] = defaultdict(list)
    for tree in heads:
        if tree.startswith("offline/") and "/run=" in tree:
            made_by[tree.rpartition("/run=")[2]].append(tree)
    for run in runs.list_runs(repo.data):
        own = (*made_by[run.id], *([f"runs/{run.id}"] if f"runs/{run.id}" in heads else []))
        text = said(Path(run.folder) / layout.MANIFEST)
        yield StoreThing(f"runs/{run.kind}", run.id, run_made(run), text, cache=cache, trees=own, run=run.id)
    for tree, head in heads.items():
        top, _, rest = tree.partition("/")
        if top == "training":
            yield StoreThing("training", rest, head.modified, _text_of(cache, tree, layout.MANIFEST), cache=cache, trees=(tree,))
        elif top == "models" and rest.rpartition("/")[2].isdecimal():
            text = _text_of(cache, tree, layout.SPEC_FILE)
            yield StoreThing(f"models/{rest.partition('/')[0]}", rest, head.modified, text, cache=cache, trees=(tree,))
        elif top in REPORTS:
            yield StoreThing(top, tree, head.modified, cache=cache, trees=(tree,))
    if repo.settings.request_log(repo.path):
        yield from request_days(repo)
    yield from _days(cache)
    yield from [*_unlisted(cache, heads), *left_attempts(cache.folder)]
    yield from _row_logs(cache)


def _row_logs(cache: Cache) -> Iterator[Thing]:
    aside: dict[tuple[str, str], list[ObjectHead]] = defaultdict(list)
    for head in cache.store.list("stream/"):
        if found := _SEGMENT.fullmatch(head.key):
            yield StoreThing(found[1], head.key, head.modified, cache=cache, files=(head,))
        elif found := _BEFORE.fullmatch(head.key):
            aside[found[2], found[1]].append(head)
    for (kind, name), heads in aside.items():
        yield StoreThing(kind, name, max(head.modified for head in heads), cache=cache, files=tuple(heads))


def _unlisted(cache: Cache, heads: Mapping[str, ObjectHead]) -> Iterator[Thing]:
    """What no list names, and what steps handed on: left by one that was killed, once it is older than a writer at work needs it."""
    listed = {key for tree in heads for key in trees.keys(cache, tree)}
    for top in (*trees.TOPS, "work"):
        for head in cache.store.list(f"{top}/"):
            if head.key not in listed and (top == "work" or trees.of_a_tree(head.key)):
                yield StoreThing(UNLISTED, head.key, head.modified, cache=cache, files=(head,))


def _days(cache: Cache) -> Iterator[Thing]:
    days: dict[str, list[ObjectHead]] = defaultdict(list)
    for head in cache.store.list("requests/"):
        if found := _DAY.fullmatch(head.key):
            days[found[1]].append(head)
    for name, heads in days.items():
        yield StoreThing("requests", f"requests/{name}", end_of(name.rpartition("=")[2]), cache=cache, files=tuple(heads))


def _text_of(cache: Cache, tree: str, path: str) -> str:
    try:
        content = trees.read_file(cache, tree, path)
        if content is not None:
            return content.decode()
        why = "it is not there"
    except UnicodeDecodeError as error:
        why = str(error)
    raise DataError(f"nothing is removed: {cache.url}/{tree}/{path} cannot be read ({why}); repair or delete it first")


def store_checkpoints(cache: Cache) -> Iterator[tuple[str, str]]:
    """What the checkpoints of streams say: the stream and the object's text."""
    for head in cache.store.list("stream/"):
        if "/checkpoints/" in head.key and (found := cache.store.read(head.key)) is not None:
            yield head.key.split("/")[1], found.content.decode(errors="replace")
