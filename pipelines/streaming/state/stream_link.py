"""Between the driver of a stream and workers on other machines, by the object store that both reach: no shared folder, no port.

The driver says in ``control.json`` what is asked of the job and which records are left out; each worker process says in
``status/<attempt>/<who>.json`` how far its parts are, what it has to say, and why the job must end. Both look once a second. What workers
on the driver's own machine say, and do, goes by files as in a plain folder.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.lake import layout
from pipelines.lake.data_files import write_text
from pipelines.streaming.state.stream_objects import StreamObjects
from serving.object_store import erasures
from serving.object_store.cache import cache_of
from serving.object_store.leases import process_numbers
from transforms.errors import TandemError

__all__ = ["ANEW", "StreamLink", "here", "link_of"]

SECONDS = 1.0
ANEW = "anew-"
"""What the names of the parts begin with that ask for the job to be started anew."""
_MOST_SAID = 200
_links: dict[str, StreamLink] = {}


def here(folder: Path) -> str:
    """Which machine this is, and which folder of it: who reads the same text reaches the same files."""
    return f"{process_numbers() or socket.gethostname()} {folder}"


def link_of(folder: Path) -> StreamLink | None:
    """That of a stream's folder in this process; None where the data folder is a plain one."""
    folder = Path(folder)
    if folder.parent != layout.streams(folder.parents[1]):
        return None
    found = _links.get(str(folder))
    if found is None and (cache := cache_of(folder.parents[1])) is not None:
        found = _links.setdefault(str(folder), StreamLink(cache, folder))
    return found


class StreamLink(StreamObjects):
    """What this process knows and says of a stream in an object store. ``elsewhere``: it is a worker, and its driver another machine's."""

    elsewhere = False

    def join(self, attempt: str, home: str) -> None:
        """This process works for an attempt at running the job, whose driver is at ``home`` (see :func:`here`)."""
        with self._lock:
            if self.attempt == attempt:
                return
            if elsewhere := home != here(self.folder):
                with self._asking():
                    erasures.follow(self.cache)
            self.attempt, self._versions, self.elsewhere = attempt, {}, elsewhere
            if not elsewhere:
                return
            self.who = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
            self.flags: dict[str, int] = {}
            self._control = ""
            self._reports: dict[str, dict[str, Any]] = {}
            self._said: list[tuple[int, str]] = []
            self._failure: str | None = None
            self._cleared: dict[str, int] = {}
            self._dirty = True
            (self.folder / "fatal.json").unlink(missing_ok=True)  # of an attempt before
        self._exchange()
        threading.Thread(target=self._go_on, args=(attempt,), name=f"stream {self.folder.name}", daemon=True).start()

    def _go_on(self, attempt: str) -> None:
        while self.attempt == attempt:
            time.sleep(SECONDS)
            self._exchange()

    def _exchange(self) -> None:
        """Hear what is asked, say what there is to say; while the store is away nothing is heard, and nothing lost."""
        with suppress(TandemError, OSError):
            found = self.cache.store.read(self.key("control.json"))
            if found is not None and found.version != self._control:
                said = json.loads(found.content)
                if said.get("attempt") == self.attempt:
                    self._take_control(said)
                    self._control = found.version
            if self._dirty:
                self._send()

    def _take_control(self, said: Mapping[str, Any]) -> None:
        with self._lock:
            self.flags = {n: at for n, at in said.get("flags", {}).items() if self._cleared.get(n) != at}
        skips, path = said.get("skips", ""), self.folder / "skipped.jsonl"
        if skips and (not path.exists() or path.read_text("utf-8") != skips):
            write_text(path, skips)

    def _send(self) -> None:
        with self._lock:
            self._dirty = False
            values = {
                "who": self.who,
                "reports": self._reports,
                "said": self._said,
                "failure": self._failure,
                "cleared": self._cleared,
            }
            content = json.dumps(values).encode()
        try:
            self.cache.store.put(self.key(f"status/{self.attempt}/{self.who}.json"), content)
        except TandemError:
            self._dirty = True
            raise

    # ------------------------------------------------------------------------------------------------------ of a worker elsewhere

    def report(self, part: str, values: dict[str, Any]) -> None:
        """Numbers of a part of the job."""
        with self._lock:
            self._reports[part], self._dirty = values, True

    def say(self, line: str) -> None:
        """A line with its time."""
        with self._lock:
            self._said = [*self._said, (self._said[-1][0] + 1 if self._said else 0, line)][-_MOST_SAID:]
            self._dirty = True

    def fail(self, reason: str) -> None:
        """Why the job must end; said at once, as this process may not live on."""
        with self._lock:
            self._failure, self._dirty = self._failure or reason, True
        self._exchange()

    def ask_anew(self, part: str, reason: str) -> None:
        """Have the driver start the job anew, at the stream's checkpoint; said at once, as this process may not live on."""
        self.report(f"{ANEW}{part}", {"reason": reason})
        self._exchange()

    def clear(self, what: str) -> None:
        """What was asked is done."""
        with self._lock:
            if (at := self.flags.pop(what, None)) is not None:
                self._cleared[what], self._dirty = at, True
