"""The driver's side of a stream whose workers are on other machines: what they say becomes what the driver's folder says, and what is asked
there is said to them. All else of the driver looks at its own folder, as if the workers were here.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any

from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.stream_link import SECONDS, StreamLink
from transforms.errors import TandemError

__all__ = ["WorkersElsewhere"]


class WorkersElsewhere:
    """Looks every second, by a thread, from :meth:`start` to :meth:`close`."""

    def __init__(self, job_state: JobState, link: StreamLink) -> None:
        self.job_state, self.link = job_state, link
        self._attempt, self._asked = "", b""
        self._seen: dict[str, str] = {}
        self._heard: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="workers elsewhere", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look once more, and no more."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
            self.look()

    def _go_on(self) -> None:
        while not self._done.wait(SECONDS):
            self.look()

    def look(self) -> None:
        """Ask, and hear; while the store is away, nothing."""
        with suppress(TandemError, OSError):
            if self._attempt != self.link.attempt:
                self.forget()
            self._ask()
            self._hear()
            self.link.pull_checkpoints(self.job_state.take_over)

    def forget(self) -> None:
        """Another attempt begins: what was said of those before is nothing any more."""
        self._attempt, self._asked, self._seen, self._heard = self.link.attempt, b"", {}, {}
        prefix = self.link.key("status/")
        for head in list(self.link.cache.store.list(prefix)):
            if not head.key.startswith(f"{prefix}{self._attempt}/"):
                self.link.cache.store.delete(head.key)

    def _ask(self) -> None:
        flags = {p.name: p.stat().st_mtime_ns for p in (self.job_state.folder / "flags").iterdir()}
        skips = self.job_state.folder / "skipped.jsonl"
        said = {"attempt": self._attempt, "flags": flags, "skips": skips.read_text("utf-8") if skips.exists() else ""}
        content = json.dumps(said, sort_keys=True).encode()
        if content != self._asked:
            self.link.cache.store.put(self.link.key("control.json"), content)
            self._asked = content

    def _hear(self) -> None:
        for head in self.link.cache.store.list(self.link.key(f"status/{self._attempt}/")):
            if self._seen.get(head.key) == head.version:
                continue
            found = self.link.cache.store.read(head.key)
            if found is None:
                continue
            with suppress(ValueError, KeyError, TypeError):
                self._take(head.key, json.loads(found.content))
            self._seen[head.key] = found.version

    def _take(self, key: str, said: dict[str, Any]) -> None:
        for part, values in said["reports"].items():
            self.job_state.report(part, {k: v for k, v in values.items() if k != "at"})  # by this machine's clock
        after = self._heard.get(key, -1)
        for number, line in said["said"]:
            if number > after:
                self.job_state.say_again(line)
                self._heard[key] = number
        for what, at in said["cleared"].items():
            with suppress(OSError):
                if (self.job_state.folder / "flags" / what).stat().st_mtime_ns == at:
                    self.job_state.clear(what)
        if said["failure"]:
            self.job_state.fail(said["failure"])
