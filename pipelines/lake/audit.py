"""The audit log: who did what, when and why, each entry chained to the one before. Light: standard library only.

``data/audit/audit.jsonl`` has a JSON object a line. Its ``hash`` is SHA-256 over the entry, which holds ``before``, the hash of the one
before; ``HEAD`` beside it holds number and hash of the last. So a changed, removed, inserted or reordered entry is found, and a cut end
too, unless whoever did it computes the chain anew: with a key (``TANDEM_AUDIT_KEY`` or ``TANDEM_AUDIT_KEY_FILE``) the hash is an HMAC,
and that needs the key. A line that a kill or power loss left in part is kept, and named by the entry after it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pwd
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.lake.private import write_private
from transforms.errors import ConfigError, DataError
from transforms.locks import lock

__all__ = ["AuditLog", "Verdict", "user"]

_FIRST = "0" * 64


def user() -> str:
    """Who runs this process, by its user id (the environment may say what it likes)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True)
class Verdict:
    """What a look at the whole log found. ``problem`` is empty where every entry is as it was written."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    torn: int = 0
    """Lines that were cut off by a kill, each vouched for by the next entry (or the last one)."""


class AuditLog:
    """The log of a data folder; safe for any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.head = folder, folder / "audit.jsonl", folder / "HEAD"

    def append(self, now: datetime, what: Mapping[str, Any]) -> dict[str, Any]:
        """Add an entry, on disk when this returns. Raises DataError where the log's end is not the one that was written last."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with lock(self.folder / ".lock"):
            whole, torn = self._end()
            number, before = (int(whole["n"]), str(whole["hash"])) if whole is not None else (0, _FIRST)
            self._check_head(number, before)
            entry: dict[str, Any] = {
                "n": number + 1,
                "at": now.isoformat(),
                "who": user(),
                "host": socket.gethostname(),
                **({"sudo": os.environ["SUDO_USER"]} if os.environ.get("SUDO_USER") else {}),
                **what,
                **({"torn": hashlib.sha256(torn).hexdigest()} if torn else {}),
                "before": before,
            }
            entry["hash"] = _hash(entry)
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, (b"\n" if torn else b"") + json.dumps(entry, sort_keys=True).encode() + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
            write_private(self.head, json.dumps({"n": entry["n"], "hash": entry["hash"]}) + "\n")
        return entry

    def check(self) -> Verdict:
        """Read and check the whole log."""
        if not self.file.exists():
            return Verdict(problem=f"{self.file} is gone" if self.head.exists() else "")
        entries: list[dict[str, Any]] = []
        lines = self.file.read_bytes().split(b"\n")
        before, unread, torn = _FIRST, b"", 0
        for place, line in enumerate(lines, 1):
            if not line:
                continue
            entry = _entry(line)
            if entry is None:
                if unread:
                    return Verdict(entries, f"line {place} cannot be read, and it is not the end of a killed write", torn)
                unread = line
                continue
            where = f"line {place} (entry {entry.get('n')})"
            if entry.get("hash") != _hash(entry):
                return Verdict(entries, f"{where} was changed: its hash is another", torn)
            if entry.get("before") != before or entry.get("n") != len(entries) + 1:
                return Verdict(entries, f"{where} does not follow on entry {len(entries)}: entries were removed, moved or put in", torn)
            if unread or entry.get("torn"):
                if hashlib.sha256(unread).hexdigest() != entry.get("torn"):
                    return Verdict(entries, f"the line before {where} cannot be read, and that entry does not vouch for it", torn)
                unread, torn = b"", torn + 1
            entries.append(entry)
            before = str(entry["hash"])
        try:
            self._check_head(len(entries), before)
        except DataError as error:
            return Verdict(entries, str(error), torn)
        return Verdict(entries, "", torn + bool(unread))

    def _end(self) -> tuple[dict[str, Any] | None, bytes]:
        """The last whole entry, and the bytes of a line after it that was cut off."""
        if not self.file.exists():
            return None, b""
        data = self.file.read_bytes()
        lines = [line for line in data.split(b"\n") if line]
        torn = b""
        if lines and _entry(lines[-1]) is None:
            torn = lines.pop()
        elif lines and not data.endswith(b"\n"):  # whole, but for its line's end: it counts, and the next one begins a line
            with open(self.file, "ab") as out:
                out.write(b"\n")
        found = _entry(lines[-1]) if lines else None
        if lines and found is None:
            raise DataError(f"{self.file}: its last lines cannot be read; look at 'tandem audit'")
        return found, torn

    def _check_head(self, number: int, last: str) -> None:
        """HEAD is the last entry, or the one before it (a kill came in between)."""
        try:
            head = json.loads(self.head.read_text("utf-8"))
            known, digest = int(head["n"]), str(head["hash"])
        except FileNotFoundError:
            if number > 1:
                raise DataError(f"{self.head} is gone; nobody can tell whether entries are missing at the end of {self.file}") from None
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{self.head} cannot be read; nobody can tell whether entries are missing at the end of {self.file}") from None
        if known not in (number, number - 1) or (known == number and digest != last):
            raise DataError(f"{self.file} ends with entry {number}, and {known} were written: its end was cut off or made anew")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "hash" in value else None


def _hash(entry: Mapping[str, Any]) -> str:
    data = json.dumps({k: v for k, v in entry.items() if k != "hash"}, sort_keys=True).encode()
    key = _key()
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else hashlib.sha256(data).hexdigest()


def _key() -> bytes:
    if value := os.environ.get("TANDEM_AUDIT_KEY", ""):
        return value.encode()
    if file := os.environ.get("TANDEM_AUDIT_KEY_FILE", ""):
        try:
            return Path(file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"TANDEM_AUDIT_KEY_FILE: {file} cannot be read ({error.strerror}); correct the path") from None
    return b""
