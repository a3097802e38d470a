"""Folders that never change once they are there: uploaded file by file, then visible by one object that lists the files with hashes.

A file's key holds its hash, so two writers of one folder never overwrite each other's files: the first list that is put counts, whoever
else was at work. Files that no list names (of a writer that was killed) are never read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from serving.object_store.cache import Cache
from serving.object_store.object_store import ObjectHead, Versioned
from transforms.data_folder import TREES
from transforms.errors import DataError
from transforms.files import placed, sha256

__all__ = ["TOPS", "TreeFile", "fetch", "heads", "keys", "names", "of_a_tree", "publish", "read_file", "remove", "renew", "size", "sweep"]


TOPS = tuple(TREES)
"""Where trees are; no others are fetched, whatever the store lists."""
_DAMAGED = "damaged-trees"
"""The index of the trees of which the store's own files are damaged or gone."""
_FILE = re.compile(r"[0-9a-f]{16}-")


class TreeFile(TypedDict):
    """A file of a tree; ``path`` is relative to the tree's folder."""

    path: str
    bytes: int
    sha256: str


def _list_key(tree: str) -> str:
    return f"trees/{tree}.json"


def _file_key(tree: str, file: TreeFile) -> str:
    folder, _, name = f"{tree}/{file['path']}".rpartition("/")
    return f"{folder}/{file['sha256'][:16]}-{name}"


def of_a_tree(key: str) -> bool:
    """Whether a key is one that a tree's files have, listed or not; others in the same folders are objects of their own."""
    return _FILE.match(key.rpartition("/")[2]) is not None


def _files(folder: Path, without: frozenset[str]) -> list[TreeFile]:
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    names = [(p.relative_to(folder).as_posix(), p) for p in found]
    return [{"path": name, "bytes": p.stat().st_size, "sha256": sha256(p)} for name, p in names if name not in without]


def _encoded(files: Iterable[TreeFile]) -> bytes:
    return json.dumps({"files": list(files)}, indent=1, sort_keys=True).encode() + b"\n"


def publish(cache: Cache, tree: str, *, again: bool = False, only: bool = False, without: frozenset[str] = frozenset()) -> None:
    """Make the folder ``tree`` (relative to the data folder) visible to others. Hidden files are left out; so are those ``without``.

    One that is there already stays as it is (of the same name it holds the same values), unless ``again``: then its list is replaced.
    One whose files in the store were found damaged (:func:`renew`) is replaced as a whole.
    ``only``: raises DataError where there is one of other content. May be repeated after a crash.
    """
    known, damaged = cache.look("trees").get(tree), tree in cache.look(_DAMAGED)
    if known is not None and not (again or damaged):
        return
    files = _files(cache.folder / tree, without)
    content = _encoded(files)
    there = cache.store.read(_list_key(tree))
    if there is None or damaged or (again and there.content != content):
        have = {} if damaged else {head.key: head.size for head in cache.store.list(f"{tree}/")}
        missing = [f for f in files if have.get(_file_key(tree, f)) != f["bytes"]]
        cache.all(lambda f: cache.store.upload(_file_key(tree, f), cache.folder / tree / f["path"]), missing)
        if there is None:
            made = cache.store.create(_list_key(tree), content)
        else:
            made = cache.store.replace(_list_key(tree), content, there.version)
        there = cache.store.read(_list_key(tree)) if made is None else Versioned(content, made)
    if only and there is not None and there.content != content:
        raise DataError(f"{cache.url}: {tree} was published by another machine meanwhile; run the same command again")
    _note(cache, tree, there)
    if damaged:
        with cache.index(_DAMAGED) as index:
            index.pop(tree, None)


def _note(cache: Cache, tree: str, there: Versioned | None) -> None:
    with cache.index("trees") as index:
        index[tree] = there.version if there is not None else ""


def keys(cache: Cache, tree: str) -> set[str]:
    """The keys of a tree's files, as it is listed now."""
    there = cache.store.read(_list_key(tree))
    return set() if there is None else {_file_key(tree, file) for file in _listed(cache, tree, there)}


def sweep(cache: Cache, tree: str) -> None:
    """Delete what lies in a tree's folder and is not listed any more: files of before it was published again. For who holds the runs."""
    listed = keys(cache, tree)
    for head in list(cache.store.list(f"{tree}/")):
        if head.key not in listed:
            cache.store.delete(head.key)


def remove(cache: Cache, tree: str) -> None:
    """Delete a tree: first its list, so nobody finds it half there; then its files, and the copy here."""
    cache.store.delete(_list_key(tree))
    with cache.index("trees") as index:
        index.pop(tree, None)
    for head in list(cache.store.list(f"{tree}/")):
        cache.store.delete(head.key)
    shutil.rmtree(cache.folder / tree, ignore_errors=True)


def heads(cache: Cache, below: str = "") -> dict[str, ObjectHead]:
    """The trees below a folder, such as ``models/delays`` (all of them without one), relative to the data folder, with what is known of
    their lists."""
    prefix = f"trees/{below}/" if below else "trees/"
    return {head.key.removeprefix("trees/").removesuffix(".json"): head for head in cache.store.list(prefix)}


def names(cache: Cache, below: str = "") -> dict[str, str]:
    """As :func:`heads`, with the versions of their lists."""
    return {tree: head.version for tree, head in heads(cache, below).items()}


def size(cache: Cache, tree: str) -> int:
    """The bytes of a tree's files."""
    there = cache.store.read(_list_key(tree))
    return 0 if there is None else sum(file["bytes"] for file in _listed(cache, tree, there))


def read_file(cache: Cache, tree: str, path: str) -> bytes | None:
    """One small file of a tree, without the others; None if it has none."""
    there = cache.store.read(_list_key(tree))
    found = [] if there is None else [file for file in _listed(cache, tree, there) if file["path"] == path]
    content = cache.store.read(_file_key(tree, found[0])) if found else None
    return None if content is None else content.content


def fetch(cache: Cache, tree: str, *, again: bool = False) -> bool:
    """Have a copy of a tree that was published, whole and of the right bytes; False if there is no such tree.

    A folder that is here already is believed once it was compared; ``again``: look whether the tree was published again.
    Raises DataError for a file that the store gives in other bytes than were published.
    """
    folder = cache.folder / tree
    if not again and cache.look("trees").get(tree) and folder.is_dir():
        return True
    there = cache.store.read(_list_key(tree))
    if there is None:
        return False
    files = _listed(cache, tree, there)
    wanted = [f for f in files if not _is_here(folder / f["path"], f)]
    if folder.is_dir() and again:
        cache.all(lambda f: _download(cache, tree, f, folder / f["path"]), wanted)
    elif wanted or not folder.is_dir():  # left by a process that was killed before it published, or damaged: not what counts
        _renew(cache, tree, files)
    _note(cache, tree, there)
    return True


def renew(cache: Cache, tree: str) -> bool:
    """Have a new copy of a tree that was published; what was here, which is damaged, is set aside. False if there is no such tree.

    Raises DataError where the store's own copy is damaged or gone, too: then all stays as it is here, and who publishes the tree next
    puts all its files into the store again.
    """
    if (there := cache.store.read(_list_key(tree))) is None:
        return False
    try:
        _renew(cache, tree, _listed(cache, tree, there))
    except DataError:
        with cache.index(_DAMAGED) as index:
            index[tree] = there.version
        raise
    _note(cache, tree, there)
    return True


def _renew(cache: Cache, tree: str, files: list[TreeFile]) -> None:
    folder = cache.folder / tree
    made = folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}")
    made.mkdir(parents=True)
    try:
        cache.all(lambda f: _download(cache, tree, f, made / f["path"]), files)
        if folder.is_dir():
            with suppress(FileNotFoundError):  # another process was faster
                folder.rename(folder.with_name(f".{folder.name}.set-aside-{os.urandom(4).hex()}"))
        _place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _listed(cache: Cache, tree: str, there: Versioned) -> list[TreeFile]:
    try:
        files: list[TreeFile] = json.loads(there.content)["files"]
        odd = any(".." in Path(f["path"]).parts or Path(f["path"]).is_absolute() or f["bytes"] < 0 or not f["sha256"] for f in files)
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{cache.url}/{_list_key(tree)} cannot be read; restore it") from None
    if odd:
        raise DataError(f"{cache.url}/{_list_key(tree)} names a file outside of its folder; restore it")
    return files


def _is_here(path: Path, file: TreeFile) -> bool:
    return path.is_file() and path.stat().st_size == file["bytes"] and sha256(path) == file["sha256"]


def _download(cache: Cache, tree: str, file: TreeFile, path: Path) -> None:
    with placed(path) as unchecked:
        if cache.store.download(_file_key(tree, file), unchecked) is None:
            raise DataError(f"{cache.url}/{_file_key(tree, file)} is gone, and {tree} needs it; restore it, or make the run again")
        if sha256(unchecked) != file["sha256"]:
            raise DataError(f"{cache.url}/{_file_key(tree, file)} is damaged: its SHA-256 is not the one in its key; restore it")


def _place(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
