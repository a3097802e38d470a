"""What files mean (:func:`.value_code.meaning`), kept between processes by the hash of their bytes. Standard library only.

Every command that records a run asks it of some two hundred files, of which hardly one is another than last time: half a second of CPU,
before a stream's engine starts. A file of what was found is right as long as Python and the code that finds it are the same, which its name
says. One that cannot be read, or is not what was written, is none.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

from pipelines.lake.caches import cache_folder
from pipelines.lake.data_files import write_bytes

__all__ = ["KeptMeanings"]

MOST = 5_000
"""Files of which it is kept; of more, those that were asked for last."""


class KeptMeanings:
    """Meanings (SHA-256, hexadecimal) by the SHA-256 of a file's bytes, as long as ``by`` (how they are found) is the same. ``folder``:
    None keeps nothing."""

    def __init__(self, by: bytes, folder: Path | None = None) -> None:
        key = hashlib.sha256(sys.version.encode() + b"\0" + by).hexdigest()[:16]
        self._file = None if folder is None else folder / f"meanings-{key}"
        self._new = False
        self._known = self._read()

    @classmethod
    def of_this_machine(cls, by: bytes) -> KeptMeanings:
        """Those of the user who runs this."""
        return cls(by, cache_folder("code"))

    def find(self, content: str) -> str | None:
        """What was kept."""
        if (found := self._known.pop(content, None)) is not None:
            self._known[content] = found  # asked for last
        return found

    def keep(self, content: str, meaning: str) -> None:
        """Keep it with the next :meth:`save`."""
        self._known[content] = meaning
        self._new = True

    def save(self) -> None:
        """Write what is new, so that other processes find it; of two at once the last one's counts. A disk that takes nothing is none."""
        if not self._new or self._file is None:
            return
        self._new = False
        text = "".join(f"{content} {meaning}\n" for content, meaning in list(self._known.items())[-MOST:]).encode()
        with suppress(OSError):
            write_bytes(self._file, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)

    def _read(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            digest, _, text = self._file.read_bytes().partition(b"\n")
        except OSError:
            return {}
        if hashlib.sha256(text).hexdigest().encode() != digest:
            return {}
        return dict(line.split(" ", 1) for line in text.decode().splitlines())
