"""API keys: a file that holds their SHA-256, never the keys.

A key is ``tandem_<id>_<secret>``: the id (8 hexadecimal digits) finds its entry, the secret (256 random bits) proves it. As nobody guesses
so many bits, one round of SHA-256 is as good as a slow hash, and checking a key costs microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.principals import Principal, checked_scopes
from transforms.errors import ConfigError, DataError
from transforms.files import replaced
from transforms.locks import lock

__all__ = ["ApiKey", "ApiKeys", "add_key", "read_keys", "remove_keys"]

log = logging.getLogger("tandem.serving")

_KEY = re.compile(r"tandem_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class ApiKey:
    """An entry of the file. ``created`` and ``expires`` (empty: never) are ISO 8601 in UTC."""

    id: str
    name: str
    """The principal. Several keys may have one name, so that a new one can take the place of an old one."""
    sha256: str
    scopes: tuple[str, ...]
    created: str
    expires: str = ""

    def expired(self, now: datetime) -> bool:
        """Whether it is not valid any more."""
        return bool(self.expires) and now >= datetime.fromisoformat(self.expires)


def read_keys(path: Path) -> list[ApiKey]:
    """The keys in the file; none if it is not there. Raises DataError if it cannot be read."""
    try:
        raw = json.loads(path.read_text())["keys"]
        keys = [ApiKey(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in raw]
        for key in keys:
            checked_scopes(key.scopes, key.name)
            key.expired(datetime.now(UTC))
            if not _NAME.fullmatch(key.name) or not _DIGEST.fullmatch(key.sha256):
                raise ValueError("of a key that nobody made")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ConfigError) as e:
        raise DataError(f"{path}: is not a file of API keys ({type(e).__name__}); restore it, or delete it and create new keys") from None
    return keys


def add_key(path: Path, name: str, scopes: Iterable[str], now: datetime, expires: datetime | None = None) -> str:
    """Make a key, keep its hash in the file, and return it: it is nowhere else. Raises ConfigError, DataError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name[:70]!r}: write at most 64 letters, digits and . _ @ -, beginning with a letter or digit")
    if expires is not None and expires <= now:
        raise ConfigError(f"expires {expires.isoformat()}: lies in the past")
    with lock(path.with_name(f".{path.name}.lock")):
        keys = read_keys(path)
        taken = {key.id for key in keys}
        number = next(n for _ in range(1_000) if (n := secrets.token_hex(4)) not in taken)
        whole = f"tandem_{number}_{secrets.token_urlsafe(32)}"
        until = "" if expires is None else expires.astimezone(UTC).isoformat(timespec="seconds")
        made = now.astimezone(UTC).isoformat(timespec="seconds")
        keys.append(ApiKey(number, name, _digest(whole), tuple(sorted(checked_scopes(scopes, name))), made, until))
        _write(path, keys)
    return whole


def remove_keys(path: Path, which: str) -> list[ApiKey]:
    """Take the key with this id, or all keys of this name, out of the file; a server takes them no more within a second. Returns them."""
    with lock(path.with_name(f".{path.name}.lock")):
        keys = read_keys(path)
        gone = [key for key in keys if which in (key.id, key.name)]
        if not gone:
            raise ConfigError(f"{which[:70]!r} is neither the id nor the name of a key; see 'tandem keys list'")
        _write(path, [key for key in keys if key not in gone])
    return gone


class ApiKeys:
    """The keys of a server. The file is looked at again at most once a second; while it cannot be read, the last good keys stay."""

    def __init__(self, path: Path | None, own: str = "", now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """``own``: a key of the environment, whatever its form, with all scopes."""
        self._path = path
        self._own = _digest(own) if own else ""
        self._now = now
        self._lock = threading.Lock()
        self._keys: dict[str, ApiKey] = {}
        self._stamp: object = None
        self._looked = float("-inf")

    def principal(self, credential: str, everything: Principal) -> Principal | None:
        """Whose key it is; None if it is nobody's. ``everything``: the principal of the environment's key. Takes as long for a wrong secret
        as for a right one."""
        digest = _digest(credential)
        if self._own and hmac.compare_digest(digest, self._own):
            return everything
        found = _KEY.fullmatch(credential)
        if found is None:
            return None
        self._look()
        key = self._keys.get(found[1])
        right = hmac.compare_digest(digest, key.sha256 if key is not None else "0" * 64)
        if key is None or not right or key.expired(self._now()):
            return None
        return Principal(key.name, frozenset(key.scopes))

    def _look(self) -> None:
        with self._lock:
            if self._path is None or time.monotonic() - self._looked < _LOOK_SECONDS:
                return
            self._looked = time.monotonic()
            try:
                info = self._path.stat()
                stamp: object = (info.st_mtime_ns, info.st_size, info.st_ino)
            except OSError:
                stamp = "not there"
            if stamp == self._stamp:
                return
            try:
                self._keys = {key.id: key for key in read_keys(self._path)}
            except DataError as e:
                log.error("API keys: %s; the previous keys stay in use", e)
            self._stamp = stamp


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _write(path: Path, keys: list[ApiKey]) -> None:
    with replaced(path, durable=True, mode=0o600, as_before=True) as out:  # a server of another user keeps its right to read it
        out.write(json.dumps({"keys": [asdict(key) for key in keys]}, indent=1).encode())
