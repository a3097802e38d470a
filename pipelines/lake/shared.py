"""Where a data folder is this machine's cache of an object store: what is published and fetched, and the locks between machines.

In a plain folder everything here does nothing, or locks a file as it always did; no package for object stores is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.lake import layout
from serving.object_store import cache as caches
from transforms import locks
from transforms.errors import DataError

if TYPE_CHECKING:
    from serving.object_store.cache import Cache

__all__ = [
    "alone", "claim", "follow_erasures", "have", "have_again", "have_everything", "have_file", "have_files", "have_manifests",
    "have_names", "have_run", "is_shared", "keep", "kept", "move", "only_here", "open_data", "publish", "publish_run", "put_manifest",
    "run_held", "run_is_held", "send_file", "send_files", "try_alone",
]  # fmt: skip

_WAIT_SECONDS = 24 * 3600.0


def open_data(data: Path) -> None:
    """Have the pointers of a data folder as they are now, and what they point to. Raises one line where the store cannot be read."""
    if (cache := caches.cache_of(data)) is None:
        return
    from serving.object_store import erasures, pointers

    said = cache.store.read("FORMAT")
    if said is not None and said.content.strip() != str(layout.FORMAT).encode():
        raise DataError(
            f"{cache.url} is of format {said.content[:20].decode(errors='replace').strip()}, and this version of Tandem knows"
            f" {layout.FORMAT}; install the version that it is of, or name another place with --data"
        )
    erasures.follow(cache)
    pointers.refresh(cache)
    _follow(cache)


def follow_erasures(data: Path) -> None:
    """Take away the copies here of what was erased from the store since."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import erasures

        erasures.follow(cache)


def _follow(cache: Cache) -> None:
    """Have the graphs and model versions that the pointers name."""
    from serving.object_store.following import follow

    follow(cache)


def claim(data: Path) -> None:
    """Say in the store which format it is of, before something is written there."""
    if (cache := caches.cache_of(data)) is not None and not cache.look("claimed"):
        cache.store.create("FORMAT", f"{layout.FORMAT}\n".encode())
        with cache.index("claimed") as index:
            index["format"] = layout.FORMAT


def is_shared(data: Path) -> bool:
    """Whether the data folder is a cache of an object store."""
    return caches.cache_of(data) is not None


def kept(data: Path, kind: str) -> dict[str, Any] | None:
    """What this machine alone keeps of its cache; None in a plain folder."""
    return None if (cache := caches.cache_of(data)) is None else cache.look(kind)


def keep(data: Path, kind: str, key: str, value: Any) -> None:
    """Keep it."""
    if (cache := caches.cache_of(data)) is not None:
        with cache.index(kind) as index:
            index[key] = value


# ------------------------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def alone(data: Path, file: Path, busy: Callable[[], None] = lambda: None, beat: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock ``file`` for the body, alone among the processes of all machines; waits its turn. Pointers are as they are now.

    ``busy`` and ``beat``: see :func:`transforms.locks.lock`.
    """
    with locks.lock(file, busy, beat):
        if (cache := caches.cache_of(data)) is None:
            yield
            return
        from serving.object_store import leases, pointers

        with leases.hold(cache.store, _lease(data, file), wait=_WAIT_SECONDS, busy=busy, beat=beat or (lambda: None)) as lease:
            pointers.refresh(cache)
            yield
            lease.check()


@contextmanager
def try_alone(data: Path, file: Path) -> Iterator[bool]:
    """Whether the lock ``file`` could be had, among the processes of all machines; if so, it is held for the body. Never waits."""
    with locks.try_lock(file) as free:
        cache = caches.cache_of(data)
        if not free or cache is None:
            yield free
            return
        from serving.object_store import leases

        try:
            lease = leases.hold(cache.store, _lease(data, file))
            lease.__enter__()
        except leases.Busy:
            yield False
            return
        try:
            yield True
        finally:
            lease.__exit__(None, None, None)


def _lease(data: Path, file: Path) -> str:
    parts = file.relative_to(data).parts
    return "/".join(part.strip(".") or "lock" for part in parts)


@contextmanager
def only_here(data: Path, name: str, what: str) -> Iterator[None]:
    """For the body, ``what`` is at work on this machine alone. Raises DataError while it is on another one."""
    if (cache := caches.cache_of(data)) is None:
        yield
        return
    from serving.object_store import leases

    try:
        lease = leases.hold(cache.store, name)
        lease.__enter__()
    except leases.Busy as error:
        raise DataError(f"{what} is at work on another machine ({error})") from None
    try:
        yield
    finally:
        lease.__exit__(None, None, None)


@contextmanager
def run_held(data: Path, run_id: str) -> Iterator[None]:
    """Hold a run for the body among the machines too. Raises DataError where another one does."""
    if (cache := caches.cache_of(data)) is None:
        yield
        return
    from serving.object_store import leases, manifests

    try:
        lease = leases.hold(cache.store, f"runs/{run_id}")
        held = lease.__enter__()
    except leases.Busy as error:
        raise DataError(f"run {run_id} is being executed by another process ({error})") from None
    try:
        manifests.refresh(cache)
        yield
        held.check()
    finally:
        lease.__exit__(None, None, None)


def run_is_held(data: Path, run_id: str) -> bool | None:
    """Whether a process of another machine may be at work on a run: it has the run's lease, or nobody ever had it. None in a plain
    folder, where files tell."""
    if (cache := caches.cache_of(data)) is None:
        return None
    from serving.object_store import leases

    return leases.held_by(cache.store, f"runs/{run_id}") != ""


# ------------------------------------------------------------------------------------------------------------------------- publishing


def put_manifest(data: Path, run_id: str, manifest: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as it is to be written here: in the store first. One that says ``complete`` comes after all that the run made."""
    if (cache := caches.cache_of(data)) is None:
        return manifest
    from serving.object_store import manifests

    if changes.get("status") == "complete":
        publish_run(data, run_id, manifest)
    return manifests.put(cache, run_id, manifest, changes or manifest)


def have_manifests(data: Path, *, certain: bool = False) -> None:
    """Have copies of the manifests of all runs; without ``certain`` those of a moment ago will do."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import manifests

        manifests.refresh(cache, certain=certain)


def publish(data: Path, folder: Path, *, only: bool = False) -> None:
    """Make a folder that never changes any more (a graph, a model version) visible to others; ``only``: nobody else may have made it."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import trees

        trees.publish(cache, folder.relative_to(data).as_posix(), only=only)


def publish_run(data: Path, run_id: str, manifest: Mapping[str, Any]) -> None:
    """Make everything visible that a run which is about to be complete has made; its manifest comes after."""
    if (cache := caches.cache_of(data)) is None:
        return
    from serving.object_store import trees

    folders: dict[str, None] = {}
    for output in manifest.get("outputs") or []:
        parts = str(output.get("path", "")).split("/")
        if len(parts) > (depth := layout.TREES.get(parts[0], len(parts))) and parts[0] != "runs":
            folders["/".join(parts[:depth])] = None
    if manifest.get("kind") in ("batch", "reproduce"):
        folders |= {f"graphs/{group}/{made}": None for group, made in (manifest.get("fingerprints") or {}).items()}
        folders |= {f"offline/{group}/run={run_id}": None for group in manifest.get("fingerprints") or {}}
    for folder in folders:
        if (data / folder).is_dir():
            trees.publish(cache, folder)
    if layout.run(data, run_id).is_dir():
        trees.publish(cache, f"runs/{run_id}", again=True, without=frozenset({layout.MANIFEST}))


def move(data: Path, file: Path, write: Callable[[bytes], None], content: bytes) -> None:
    """Have the pointer ``file`` say ``content`` (empty: it goes), by compare-and-swap where there is a store; else by ``write``."""
    if (cache := caches.cache_of(data)) is None:
        write(content)
        return
    from serving.object_store import pointers

    pointers.move(cache, file.relative_to(data).as_posix(), content)


def send_files(data: Path, folders: Iterable[str], *, removals: bool = False) -> None:
    """Upload what is new below these folders, relative to the data folder: event files, labels. ``removals``: see ``files.push``."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import single_files

        for folder in dict.fromkeys(folders):
            if (data / folder).is_dir():
                single_files.push(cache, folder, removals=removals)


def send_file(data: Path, file: Path) -> None:
    """Upload one file that never changes."""
    if (cache := caches.cache_of(data)) is not None:
        cache.store.upload(file.relative_to(data).as_posix(), file)


# --------------------------------------------------------------------------------------------------------------------------- fetching


def have_file(data: Path, file: Path) -> None:
    """Have a copy of one file that never changes, if there is one."""
    if not file.exists() and (cache := caches.cache_of(data)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        cache.store.download(file.relative_to(data).as_posix(), file)


def have(data: Path, folder: Path) -> None:
    """Have a copy of a folder that somebody published, if it is not here."""
    if (cache := caches.cache_of(data)) is not None and not folder.is_dir():
        from serving.object_store import trees

        trees.fetch(cache, folder.relative_to(data).as_posix())


def have_again(data: Path, folder: Path) -> None:
    """Have a new copy of a folder that somebody published instead of the one here, which is damaged. See ``trees.renew``."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import trees

        trees.renew(cache, folder.relative_to(data).as_posix())


def have_run(data: Path, run_id: str) -> None:
    """Have a copy of what a run left in its own folder: tiles, dead letters, reports."""
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import trees

        trees.fetch(cache, f"runs/{run_id}", again=True)


def have_names(data: Path, below: str) -> list[str]:
    """The published folders right below a folder (``models``, ``models/delays``): their names; nothing in a plain folder."""
    if (cache := caches.cache_of(data)) is None:
        return []
    from serving.object_store import trees

    at = len(below.split("/"))
    return sorted({name.split("/")[at] for name in trees.names(cache, below)})


def have_files(data: Path, folders: Collection[str], wanted: Callable[[str], bool] = lambda name: True, *, strict: bool = True) -> None:
    """Have copies of the files below these folders, relative to the data folder, whose names (relative to it, too) are ``wanted``.

    ``strict``: raises DataError for files that are here alone.
    """
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store import single_files

        for folder in dict.fromkeys(folders):
            single_files.pull(cache, folder, wanted, strict=strict)


def have_everything(data: Path, events: Iterable[str]) -> None:
    """Have all that was published, the event files (of these folders, relative to the data folder), labels and logged requests.

    For commands that look back over them.
    """
    if (cache := caches.cache_of(data)) is not None:
        from serving.object_store.following import everything

        everything(cache)
        have_files(data, ["events", *events, "requests", "labels", "archive"])
