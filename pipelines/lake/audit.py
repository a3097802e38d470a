"""The audit log: who did what, when and why, each entry chained to the one before. Light: standard library only.

``data/audit/audit.jsonl`` has a JSON object a line (:mod:`pipelines.lake.audit_entry`). Its ``hash`` is SHA-256 over the entry, which
holds ``before``, the hash of the one before; ``HEAD`` beside it holds number and hash of the last. So a changed, removed, inserted or
reordered entry is found, and a cut end too, unless whoever did it computes the chain anew: with a key (``TANDEM_AUDIT_KEY`` or
``TANDEM_AUDIT_KEY_FILE``) the hash is an HMAC, and that needs the key. ``HEAD`` is sealed by the key, too: else who cuts off the end could
write the one that fits. ``.audit`` beside the folder says what ``HEAD`` says, sealed as it is, so that a folder that is removed, or put
back as it was before its last entry, is missed. A line that a kill or power loss left in part is kept, and vouched for by the entry after
it; of one that a full disk took in part nothing is left. Where the disk has room for the line and no longer for ``HEAD`` or the witness,
who wrote it is told of the error, and the entry stays: the log is whole, and goes on.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.lake.audit_entry import AuditEntry, hashed
from pipelines.lake.private import write_private
from pipelines.lake.process_identity import user
from transforms.errors import ConfigError, DataError
from transforms.locks import lock

__all__ = ["AuditLog", "Verdict", "user"]

_FIRST = "0" * 64


@dataclass(frozen=True)
class Verdict:
    """What a look at the whole log found. ``problem`` is empty where every entry is as it was written."""

    entries: list[AuditEntry] = field(default_factory=list)
    problem: str = ""
    torn: int = 0
    """Lines that were cut off by a kill, each vouched for by the next entry (or the last one)."""


class AuditLog:
    """The log of a data folder; safe for any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.head = folder, folder / "audit.jsonl", folder / "HEAD"
        self.witness = folder.with_name(f".{folder.name}")

    def append(self, now: datetime, what: Mapping[str, Any]) -> AuditEntry:
        """Add an entry, on disk when this returns. Raises OSError where the disk refuses, though the entry may be there: what names it is
        written after it. Raises DataError where the log's end is not the one that was written last, or is of a newer Tandem."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with lock(self.folder / ".lock"):
            whole, torn = self._end()
            number, before = (whole[-1].n, whole[-1].hash) if whole else (0, _FIRST)
            if not whole and not self.head.exists():
                self._ask_witness(0, [])
                self._write(self.head, 0, _FIRST)  # so that there is always one
            if self._check_head(number, before, whole) < number:
                self._write(self.head, number, before)  # first of all: no more than one entry may ever be ahead of HEAD
            self._ask_witness(number, whole)
            said: dict[str, Any] = {
                "n": number + 1,
                "at": now.isoformat(),
                "who": user(),
                "host": socket.gethostname(),
                **({"sudo": os.environ["SUDO_USER"]} if os.environ.get("SUDO_USER") else {}),
                **what,
                "format": AuditEntry.FORMAT,
                **({"sealed": True} if _key() else {}),
                **({"torn": hashlib.sha256(torn).hexdigest()} if torn else {}),
                "before": before,
            }
            entry = AuditEntry.of_said({**said, "hash": _digest(hashed(said))})
            assert entry is not None
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                line, size = (b"\n" if torn else b"") + entry.line() + b"\n", os.fstat(handle).st_size
                if os.write(handle, line) < len(line):  # a disk that fills up takes a part and says nothing
                    os.ftruncate(handle, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
                os.fsync(handle)
            finally:
                os.close(handle)
            self._write(self.head, entry.n, entry.hash)
            self._write(self.witness, entry.n, entry.hash)  # last: a kill before it leaves one that is behind, and never one ahead
        return entry

    def _write(self, file: Path, number: int, digest: str) -> None:
        seal = {"seal": _seal(number, digest)} if _key() else {}
        write_private(file, json.dumps({"n": number, "hash": digest, **seal}) + "\n", durable=True)

    def check(self) -> Verdict:
        """Read and check the whole log."""
        if not self.file.exists():
            try:
                self._ask_witness(0, [])
            except DataError as error:
                return Verdict(problem=str(error))
            return Verdict(problem=f"{self.file} is gone" if self.head.exists() or self.witness.exists() else "")
        entries: list[AuditEntry] = []
        lines = self.file.read_bytes().split(b"\n")
        before, unread, torn = _FIRST, b"", 0
        for place, line in enumerate(lines, 1):
            if not line:
                continue
            entry = AuditEntry.of_line(line)
            if entry is None:
                if unread:
                    return Verdict(entries, f"line {place} cannot be read, and it is not the end of a killed write", torn)
                unread = line
                continue
            if entry.newer:
                return Verdict(entries, f"line {place}: {entry.newer}", torn)
            where = f"line {place} (entry {entry.n})"
            if entry.hash != _digest(entry.hashed()) or entry.line() != line:  # two values of one key would be two stories
                return Verdict(entries, f"{where} was changed: its hash is another", torn)
            if entry.before != before or entry.n != len(entries) + 1:
                return Verdict(entries, f"{where} does not follow on entry {len(entries)}: entries were removed, moved or put in", torn)
            if unread or entry.torn:
                if hashlib.sha256(unread).hexdigest() != entry.torn:
                    return Verdict(entries, f"the line before {where} cannot be read, and that entry does not vouch for it", torn)
                unread, torn = b"", torn + 1
            entries.append(entry)
            before = entry.hash
        try:
            self._check_head(len(entries), before, entries[-2:])
            self._ask_witness(len(entries), entries)
        except DataError as error:
            return Verdict(entries, str(error), torn)
        return Verdict(entries, "", torn + bool(unread))

    def _end(self) -> tuple[list[AuditEntry], bytes]:
        """The last two whole entries (a line that a kill left may be between them), and the bytes of a line after them that was cut off."""
        if not self.file.exists():
            return [], b""
        data = self.file.read_bytes()
        lines = [line for line in data.split(b"\n") if line]
        torn = b""
        if lines and AuditEntry.of_line(lines[-1]) is None:
            torn = lines.pop()
        elif lines and not data.endswith(b"\n"):  # whole, but for its line's end: it counts, and the next one begins a line
            with open(self.file, "ab") as out:
                out.write(b"\n")
        if lines and AuditEntry.of_line(lines[-1]) is None:
            raise DataError(f"{self.file}: its last lines cannot be read; look at 'tandem audit'")
        whole = list(islice((entry for line in reversed(lines) if (entry := AuditEntry.of_line(line)) is not None), 2))[::-1]
        if whole and whole[-1].newer:
            raise DataError(f"{self.file}: {whole[-1].newer}")
        return whole, torn

    def _ask_witness(self, number: int, entries: Sequence[AuditEntry]) -> None:
        """Raises DataError where what was written beside the folder is not in the log; ``entries`` are its last ones. A log of before there
        was a witness has none."""
        try:
            known, digest, seal = _pointer(self.witness)
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            raise DataError(f"{self.witness} cannot be read; nothing shows whether {self.folder} is the log that was written") from None
        first = max(known, 1)  # of none yet: the one that follows says whether there was a key
        if first < number and not any(e.n == first for e in entries):  # longer than it was: of an older version, or another log
            entries = [e for line in self.file.read_bytes().split(b"\n") if (e := AuditEntry.of_line(line)) is not None]
        sealed = next((e.sealed for e in entries if e.n == first), bool(_key()))
        if sealed and not hmac.compare_digest(seal.encode(), _seal(known, digest).encode()):
            raise DataError(
                f"{self.witness} is not sealed by the key: {self.folder} may be gone or an older one, and it replaced; put both back,"
                " or remove both to begin another one"
            )
        if known > number or any(e.n == known and e.hash != digest for e in entries):
            raise DataError(
                f"{self.folder} is not the log that was written: it ends with entry {number}, and {self.witness} names entry {known}, of"
                f" {digest[:12]}; put the log back, or remove both to begin another one"
            )

    def _check_head(self, number: int, last: str, ends: Sequence[AuditEntry]) -> int:
        """The number that HEAD names: the last entry, or the one before it (a kill came in between). ``ends`` are these two."""
        try:
            known, digest, seal = _pointer(self.head)
        except FileNotFoundError:
            if number:
                raise DataError(f"{self.head} is gone; nothing shows whether entries are missing at the end of {self.file}") from None
            return 0
        except (OSError, ValueError):
            raise DataError(f"{self.head} cannot be read; nothing shows whether entries are missing at the end of {self.file}") from None
        of_head = last if known == number else next((e.hash for e in ends if e.n == known), _FIRST)
        if known not in (number, number - 1) or digest != of_head:
            raise DataError(f"{self.file} ends with entry {number}, and {known} were written: its end was cut off or replaced")
        sealed = any(e.sealed for e in ends if e.n == max(known, 1))
        if sealed and not hmac.compare_digest(seal.encode(), _seal(known, digest).encode()):
            raise DataError(f"{self.head} is not sealed by the key: the end of {self.file} may have been cut off and HEAD replaced")
        return known


def _pointer(file: Path) -> tuple[int, str, str]:
    """Number, hash and seal that ``HEAD`` or the witness names. Raises OSError, and ValueError for what neither ever said."""
    try:
        told = json.loads(file.read_text("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(told, dict) or type(told.get("n")) is not int or not isinstance(told.get("hash"), str):
        raise ValueError("no number and hash")
    return told["n"], told["hash"], str(told.get("seal", ""))


def _seal(number: int, digest: str) -> str:
    return _digest(f"HEAD {number} {digest}".encode())


def _digest(data: bytes) -> str:
    key = _key()
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else hashlib.sha256(data).hexdigest()


def _key() -> bytes:
    if value := os.environ.get("TANDEM_AUDIT_KEY", ""):
        return value.encode()
    if file := os.environ.get("TANDEM_AUDIT_KEY_FILE", ""):
        try:
            key = Path(file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"TANDEM_AUDIT_KEY_FILE: {file} cannot be read ({error.strerror}); correct the path") from None
        if not key:  # else the log would go on without one
            raise ConfigError(f"TANDEM_AUDIT_KEY_FILE: {file} is empty; put the key into it")
        return key
    return b""
