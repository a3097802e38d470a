"""What a stream keeps, in the object store that its data folder is a cache of: so that any machine can work on it, and go on with it.

Below ``stream/<name>/`` of the store:

* ``checkpoints/shard-0000.json`` the last durable checkpoint of a shard, and for which attempt at running the job it was saved: put after
  all that it vouches for, by compare-and-swap. Who starts a job writes its attempt into them first (:meth:`StreamObjects.fence`), so a
  worker of an earlier one, cut off and still at work, can save nothing any more (:class:`Superseded`).
* ``tiles/`` the files of saved tiles, as they are.
* ``rows/``, ``late/`` the log: what was appended to an open segment since the last durable checkpoint is an object (``*.part``), and when
  the segment is sealed its Parquet file takes the place of these. Who reads both meets rows twice, which is as after any repeated work.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.streaming.state.checkpoint_records import Checkpoint, CheckpointRecord
from serving.object_store.cache import Cache
from serving.object_store.object_store import StoreAccessError, Unreachable
from transforms.errors import DataError, StoreError

__all__ = ["PART", "StreamObjects", "Superseded", "stem_of"]

PART = ".part"
"""The ending of what was appended to an open segment: frames, as a segment has them."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_SHARD = re.compile(r"shard-([0-9]{4,})\.json")


class Superseded(DataError):
    """Another start of the stream has taken over from the job that this worker is of."""


def stem_of(name: str) -> str:
    """Which segment a file of the log is of."""
    return name.partition(".")[0]


class StreamObjects:
    """Those of the stream whose folder on this machine is ``folder``. Safe for many threads. Every method raises StoreError while the
    store is away."""

    def __init__(self, cache: Cache, folder: Path) -> None:
        self.cache, self.folder = cache, folder
        self.prefix = f"{folder.relative_to(cache.folder).as_posix()}/"
        self.attempt = ""
        self._versions: dict[str, str] = {}
        self._lock = threading.RLock()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (Unreachable, StoreAccessError) as error:
            raise StoreError(str(error)) from None

    def key(self, path: str) -> str:
        """The key of what lies at ``path``, relative to the stream's folder."""
        return self.prefix + path

    def _names(self, below: str) -> list[str]:
        """The paths of the objects below a folder, relative to the stream's folder. Names that are no file names are left alone."""
        prefix = self.key(below)
        found = (h.key for h in self.cache.store.list(prefix))
        return [key.removeprefix(self.prefix) for key in found if all(_NAME.fullmatch(p) for p in key.removeprefix(prefix).split("/"))]

    # -------------------------------------------------------------------------------------------------------------- checkpoints

    def _index(self) -> str:
        return f"stream-{self.folder.name}"

    def _checkpoints(self) -> dict[int, str]:
        """Shard -> key."""
        found = ((_SHARD.fullmatch(name.removeprefix("checkpoints/")), name) for name in self._names("checkpoints/"))
        return {int(match[1]): self.key(name) for match, name in found if match is not None}

    def fence(self, attempt: str) -> None:
        """From now on, only who knows ``attempt`` saves checkpoints. For one who holds the stream."""
        with self._asking(), self._lock:
            self.attempt, self._versions = attempt, {}
            for key in self._checkpoints().values():
                self._take(key)

    def place(self, shards: int) -> None:
        """Make room for the checkpoints of so many shards: a worker saves one only where there is room."""
        with self._asking(), self._lock:
            for shard in set(range(shards)) - self._checkpoints().keys():
                self.cache.store.create(self._checkpoint(shard), _content(self.attempt, None))

    def _checkpoint(self, shard: int) -> str:
        return self.key(f"checkpoints/shard-{shard:04d}.json")

    def _take(self, key: str) -> None:
        while (found := self.cache.store.read(key)) is not None:
            content = _content(self.attempt, _said(key, found.content).get("record"))
            version = self.cache.store.replace(key, content, found.version)
            if version is not None:
                self._versions[key] = version
                return

    def put_checkpoint(self, shard: int, record: CheckpointRecord, *, driver: bool = False) -> None:
        """Save a checkpoint's record; all that it vouches for is in the store. Raises Superseded; ``driver`` makes room by itself."""
        key, content = self._checkpoint(shard), _content(self.attempt, record)
        with self._asking(), self._lock:
            while True:
                version = self._versions.get(key)
                if version is None:
                    found = self.cache.store.read(key)
                    if found is None and driver and (made := self.cache.store.create(key, content)) is not None:
                        break
                    if found is None or _said(key, found.content).get("attempt") != self.attempt:
                        raise Superseded(f"stream {self.folder.name!r} was started again; this worker of the job before ends")
                    version = found.version
                made = self.cache.store.replace(key, content, version)
                if made is not None:
                    break
                self._versions.pop(key, None)
            self._versions[key] = made
            with self.cache.index(self._index()) as index:
                index[key] = record["saved"]

    def checkpoint(self, shard: int) -> Checkpoint | None:
        """The checkpoint of a shard as the store has it now; None if there is none."""
        with self._asking():
            found = self.cache.store.read(self._checkpoint(shard))
        record = None if found is None else _said(self._checkpoint(shard), found.content).get("record")
        return None if record is None else record["checkpoint"]

    def there(self) -> bool:
        """Whether the store has a stream of this name."""
        with self._asking():
            return bool(self._checkpoints())

    def pull_checkpoints(self, write: Callable[[int, CheckpointRecord | None], None]) -> None:
        """Have this machine's copies be as new as the store's: ``write`` is given the records (None: there is none any more) that neither
        came from here nor were had before."""
        with self._asking(), self._lock:
            keys = self._checkpoints()
            found = {n: self.cache.store.read(key) for n, key in keys.items()}
            with self.cache.index(self._index()) as index:
                known = {n: key for key in index if (n := self._shard(key)) is not None}
                for number in sorted({*keys, *known}):
                    key, content = self._checkpoint(number), found.get(number)
                    record = None if content is None else _said(key, content.content).get("record")
                    if record is not None and index.get(key) != record.get("saved"):
                        write(number, record)
                        index[key] = record.get("saved")
                    elif record is None and index.pop(key, None) is not None:
                        write(number, None)

    def _shard(self, key: str) -> int | None:
        match = _SHARD.fullmatch(key.removeprefix(self.key("checkpoints/")))
        return None if match is None else int(match[1])

    def drop_checkpoints(self, first: int = 0) -> None:
        """Forget those of shard ``first`` and all above it."""
        with self._asking(), self._lock:
            for shard, key in self._checkpoints().items():
                if shard >= first:
                    self.cache.store.delete(key)
                    self._versions.pop(key, None)
                    with self.cache.index(self._index()) as index:
                        index.pop(key, None)

    # ------------------------------------------------------------------------------------------------------------------- files

    def send(self, path: Path) -> None:
        """Upload a file that never changes."""
        with self._asking():
            self.cache.store.upload(self.key(path.relative_to(self.folder).as_posix()), path)

    def have(self, path: Path) -> None:
        """Have a copy of such a file, if there is one."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._asking():
                self.cache.store.download(self.key(path.relative_to(self.folder).as_posix()), path)

    def read(self, path: str) -> bytes | None:
        """What a small file of the stream says in the store, whatever is here; None where there is none."""
        with self._asking():
            found = self.cache.store.read(self.key(path))
        return None if found is None else found.content

    def write(self, path: str, content: bytes) -> None:
        """Have the store hold this, in the place of what was there."""
        with self._asking():
            self.cache.store.put(self.key(path), content)

    def have_longer(self, path: Path) -> None:
        """Have a copy of a file that only ever grows, if the store's is the longer one."""
        key = self.key(path.relative_to(self.folder).as_posix())
        with self._asking():
            head = self.cache.store.head(key)
            if head is not None and (not path.exists() or path.stat().st_size < head.size):
                self.cache.store.download(key, path)

    def drop(self, path: Path) -> None:
        """Delete a file of the store, or all below a folder (a name without an ending)."""
        at = path.relative_to(self.folder).as_posix()
        with self._asking():
            for name in [at] if path.suffix else self._names(f"{at}/"):
                self.cache.store.delete(self.key(name))

    def began_before(self) -> bool:
        """Whether rows of a beginning before were put aside. Raises StoreError."""
        return any(True for _ in self.cache.store.list(self.key("before/")))

    def beside(self) -> list[str]:
        """The names of other streams over the same data that have checkpoints there. Raises StoreError."""
        above, _, own = self.prefix.rstrip("/").rpartition("/")
        keys = (handle.key.removeprefix(f"{above}/") for handle in self.cache.store.list(f"{above}/"))
        return sorted({key.split("/")[0] for key in keys if key.split("/")[1:2] == ["checkpoints"]} - {own})

    def sweep_tiles(self) -> None:
        """Delete the files of saved tiles that no checkpoint names. For one who holds the stream, and has fenced it."""
        with self._asking():
            named = b"".join(found.content for key in self._checkpoints().values() if (found := self.cache.store.read(key)) is not None)
            for name in self._names("tiles/"):
                if name.rpartition("/")[2].encode() not in named:
                    self.cache.store.delete(self.key(name))

    # --------------------------------------------------------------------------------------------------------------------- log

    def send_part(self, segment: Path, number: int, frames: bytes) -> None:
        """Upload what was appended to an open segment."""
        at = segment.relative_to(self.folder).with_suffix("").as_posix()
        with self._asking():
            self.cache.store.put(self.key(f"{at}.p{number:06d}{PART}"), frames)

    def send_sealed(self, sealed: Path) -> None:
        """Upload a segment's final file, in the place of its parts. One without rows has no file, and no parts with rows."""
        at = sealed.relative_to(self.folder).with_suffix("").as_posix()
        with self._asking():
            if sealed.exists():
                self.cache.store.upload(self.key(f"{at}.parquet"), sealed)
                self._note(at.rpartition("/")[0], [sealed.name])
            for name in [h.key for h in self.cache.store.list(self.key(f"{at}.p")) if h.key.endswith(PART)]:
                self.cache.store.delete(name)

    def unsent(self, place: str, sealed: Collection[str]) -> list[str]:
        """Which of the sealed segments here of a place of the log (``rows/<group>``) are this machine's alone: the store never had them.
        What it had once and has no more is not to come back."""
        with self._asking(), self.cache.index(self._log_index()) as index:
            known = index.get(place, [])
            if new := sorted(set(sealed).difference(known)):
                there = {name.rpartition("/")[2] for name in self._names(f"{place}/")}
                index[place] = sorted({*known, *there.intersection(new)})
                new = [name for name in new if name not in there]
            return new

    def _log_index(self) -> str:
        return f"log-{self.folder.name}"

    def _note(self, place: str, names: Iterable[str]) -> None:
        with self.cache.index(self._log_index()) as index:
            index[place] = sorted({*index.get(place, []), *names})

    def have_log(self, place: str) -> None:
        """Have copies of what the store has of a place of the log, and of no part that it has no more."""
        while not self._have_log(place):
            pass

    def _have_log(self, place: str) -> bool:
        """False where a part was gone before it was read: the file that took its place is to be had."""
        folder = self.folder / place
        with self._asking(), self._lock:
            there = {name.rpartition("/")[2]: name for name in self._names(f"{place}/")}
            sealed = {stem_of(name) for name in there if name.endswith(".parquet")}
            folder.mkdir(parents=True, exist_ok=True)
            here = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
            known = {*self.cache.look(self._log_index()).get(place, [])}
            whole = {stem_of(name) for name in here if not name.endswith(PART)}
            wanted = [n for n in there if n not in here and stem_of(n) not in whole and not (n.endswith(PART) and stem_of(n) in sealed)]
            got = self.cache.all(lambda name: self.cache.store.download(self.key(there[name]), folder / name), wanted)
            for name in here:
                gone = name not in there and name in known  # the store had it: somebody took it away
                if gone or (name.endswith(PART) and (name not in there or stem_of(name) in sealed)):
                    (folder / name).unlink(missing_ok=True)
            self._note(place, [name for name in wanted if name.endswith(".parquet")])
        return None not in got

    def have_aside(self, place: str) -> None:
        """Have copies of what was moved aside of a place of the log, each time that the stream began anew."""
        with self._asking():
            found = {name.rpartition("/")[0] for name in self._names("before/")}
        for one in sorted(f for f in found if f.endswith(f"/{place}")):
            self.have_log(one)

    def beginnings(self) -> set[str]:
        """The names below which the log was moved aside, each time that the stream began anew."""
        with self._asking():
            return {name.split("/")[1] for name in self._names("before/")}

    def have_whole_log(self) -> None:
        """Have copies of all that the store has of the log."""
        with self._asking():
            places = {name.rpartition("/")[0] for kind in ("rows/", "late/") for name in self._names(kind)}
        for place in sorted(places):
            self.have_log(place)

    def have_tiles(self) -> None:
        """Have copies of all saved tiles that the store has. Files of them never change."""
        with self._asking():
            names = self._names("tiles/")
        self.cache.all(lambda name: self.have(self.folder / name), names)

    def have_anew(self, write: Callable[[int, CheckpointRecord | None], None]) -> None:
        """Have copies of all that the store has of the stream as it is there now, in the place of those that are here: checkpoints (which
        ``write`` is given), the log, what was moved aside, and saved tiles. For one who changes them, or looks through them."""
        for below in ("rows", "late", "before", "tiles"):
            shutil.rmtree(self.folder / below, ignore_errors=True)
        with self._asking():
            with self.cache.index(self._index()) as index:
                index.clear()
            self.pull_checkpoints(write)
            names = [name for below in ("rows/", "late/", "before/", "tiles/") for name in self._names(below)]
            for name in names:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.cache.all(lambda name: self.cache.store.download(self.key(name), self.folder / name), names)
            for place in {name.rpartition("/")[0] for name in names if name.startswith(("rows/", "late/"))}:
                self._note(place, [p.name for p in (self.folder / place).glob("*.parquet")])

    def move_aside(self, names: Iterable[str], aside: Path) -> None:
        """What lies below these folders now lies below ``aside`` here: so it is in the store, too."""
        with self._asking():
            for name in names:
                for path in sorted((aside / name).rglob("*")):
                    if path.is_file() and not path.name.startswith("."):
                        self.send(path)
                self.drop(self.folder / name)


def _content(attempt: str, record: CheckpointRecord | None) -> bytes:
    return json.dumps({"attempt": attempt, "record": record}).encode() + b"\n"


def _said(key: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
        if isinstance(found, dict) and isinstance(found.get("record"), dict | None):
            return found
    except ValueError:
        pass
    raise DataError(
        f"{key} is damaged; delete it, and the stream starts from the beginning of its topics (or --from-run), which is harmless"
    )
