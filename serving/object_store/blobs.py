"""S3 and Azure Blob Storage (and what speaks their protocols), by ``obstore``."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from serving.object_store.object_store import ObjectHead, ObjectStore, StoreAccessError, Unreachable, Versioned
from transforms.files import replaced

__all__ = ["Blobs"]

Result = TypeVar("Result")

RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=45),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2)},
}
"""Of each request, by obstore itself: throttling (429, 503) and the store's own faults (5xx)."""
CLIENT = {"timeout": "60s", "connect_timeout": "5s", "user_agent": "tandem"}
_PAUSES = (0.2, 1.0)
"""Between further tries of a write, which obstore does not repeat where its answer was lost."""
_CHUNK = 8 << 20


class Blobs(ObjectStore):
    """A bucket (or container) behind ``obstore``; keys lie below the prefix of ``url``."""

    def __init__(self, url: str, store: Any, prefix: str, pause: Callable[[float], None] = time.sleep) -> None:
        self.url, self._store, self._prefix, self._pause = url, store, f"{prefix}/" if prefix else "", pause

    def head(self, key: str) -> ObjectHead | None:
        """See ``ObjectStore``."""
        import obstore

        try:
            return self._head(self._do(lambda: obstore.head(self._store, self._prefix + key)))
        except FileNotFoundError:
            self._bucket_is_there()
            return None

    def read(self, key: str) -> Versioned | None:
        """See ``ObjectStore``."""
        import obstore

        def get() -> Versioned:
            found = obstore.get(self._store, self._prefix + key)
            return Versioned(bytes(found.bytes()), self._version(found.meta))

        try:
            return self._do(get)
        except FileNotFoundError:
            self._bucket_is_there()
            return None

    def put(self, key: str, content: bytes) -> str:
        """See ``ObjectStore``."""
        return self._put(key, content, "overwrite")

    def create(self, key: str, content: bytes) -> str | None:
        """See ``ObjectStore``."""
        return self._conditional(key, content, "create")

    def replace(self, key: str, content: bytes, version: str) -> str | None:
        """See ``ObjectStore``."""
        return self._conditional(key, content, {"e_tag": version})

    def delete(self, key: str) -> None:
        """See ``ObjectStore``."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            self._do(lambda: obstore.delete(self._store, self._prefix + key))

    def list(self, prefix: str = "") -> Iterator[ObjectHead]:
        """See ``ObjectStore``."""
        import obstore

        # obstore lists by whole parts of a path alone: what begins with the last, incomplete one is picked here.
        folder = (self._prefix + prefix).rpartition("/")[0]
        whole = self._prefix + prefix

        def all_of_it() -> list[ObjectHead]:
            pages = obstore.list(self._store, prefix=folder or None, chunk_size=1000)
            return [self._head(meta) for page in pages for meta in page if meta["path"].startswith(whole)]

        try:
            yield from sorted(self._do(all_of_it), key=lambda head: head.key)
        except FileNotFoundError:
            raise StoreAccessError(self._no_bucket()) from None

    def upload(self, key: str, file: Path) -> str:
        """See ``ObjectStore``."""
        return self._put(key, file, "overwrite")

    def download(self, key: str, file: Path) -> ObjectHead | None:
        """See ``ObjectStore``."""
        import obstore

        def get() -> ObjectHead:
            found = obstore.get(self._store, self._prefix + key)
            with replaced(file) as out:
                for piece in found.stream(min_chunk_size=_CHUNK):
                    out.write(piece)
            return self._head(found.meta)

        try:
            return self._do(get)
        except FileNotFoundError:
            self._bucket_is_there()
            return None

    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        """See ``ObjectStore``."""
        import obstore

        try:
            return self._do(lambda: bytes(obstore.get_range(self._store, self._prefix + key, start=start, length=length)))
        except FileNotFoundError:
            self._bucket_is_there()
            return None

    # ------------------------------------------------------------------------------------------------------------------------ inside

    def _put(self, key: str, content: bytes | Path, mode: Any) -> str:
        import obstore

        try:
            return self._version(self._do(lambda: obstore.put(self._store, self._prefix + key, content, mode=mode)))
        except FileNotFoundError:
            raise StoreAccessError(self._no_bucket()) from None

    def _conditional(self, key: str, content: bytes, mode: Any) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            return self._version(self._do(lambda: obstore.put(self._store, self._prefix + key, content, mode=mode)))
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            # Perhaps by an earlier try of this very write, whose answer was lost.
            there = self.read(key)
            return there.version if there is not None and there.content == content else None

    def _do(self, act: Callable[[], Result]) -> Result:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        for pause in (*_PAUSES, None):
            try:
                return act()
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StoreAccessError(
                    f"{self.url}: access is refused ({_said(error)}); this machine's credentials need the right to list, read and write"
                ) from None
            except BaseError as error:
                if type(error).__name__ not in ("GenericError", "JoinError"):
                    raise
                self._judge(error, last=pause is None)
            except (OSError, TimeoutError) as error:
                if isinstance(error, FileNotFoundError) or pause is None:
                    raise
            self._pause(pause or 0)
        raise AssertionError  # the last round returns or raises

    def _judge(self, error: Exception, last: bool) -> None:
        """Raise for what trying again does not help, or the last try."""
        text = str(error)
        if "169.254.169.254" in text or ("metadata" in text.lower() and "token" in text.lower()):
            raise StoreAccessError(
                f"{self.url}: this machine has no credentials for it: none in the environment, in a profile or of its own identity;"
                " set them as the cloud's own tools want them"
            ) from None
        if re.search(r"<Code>(NoSuchBucket|ContainerNotFound)<", text):
            raise StoreAccessError(self._no_bucket()) from None
        status = re.search(r"status code: (\d{3})", text)
        if status and status[1].startswith("4") and status[1] not in ("408", "429"):
            raise StoreAccessError(f"{self.url}: the store refuses ({_said(error)}); correct data: or the credentials") from None
        if last:
            raise Unreachable(f"{self.url}: the store cannot be reached, or fails ({_said(error)}); gave up after some tries") from None

    def _head(self, meta: Any) -> ObjectHead:
        return ObjectHead(meta["path"].removeprefix(self._prefix), meta["size"], self._version(meta), meta["last_modified"])

    @staticmethod
    def _version(meta: Any) -> str:
        return f'"{str(meta["e_tag"]).strip(chr(34))}"'  # Azure's lists say it without the quotation marks that conditions want

    def _bucket_is_there(self) -> None:
        """A missing bucket looks like a missing object. Raises StoreAccessError."""
        import obstore

        try:
            self._do(lambda: next(iter(obstore.list(self._store, prefix=f"{self._prefix}no/such", chunk_size=1)), None))
        except FileNotFoundError:
            raise StoreAccessError(self._no_bucket()) from None

    def _no_bucket(self) -> str:
        return f"{self.url}: there is no such bucket or container; create it, or correct data:"


def _said(error: BaseException) -> str:
    """What went wrong in a few words: the store's own code, or the innermost reason; no address with its query."""
    text = " ".join(str(error).split())
    code = re.search(r"<Code>([^<]{1,80})</Code>", text)
    status = re.search(r"status code: (\d{3}[^:<]{0,40})", text)
    if status:
        return f"{status[1].strip()}{f': {code[1]}' if code else ''}"
    text = text.partition("Debug source")[0]
    for known in ("Connection refused", "dns error", "timed out", "timeout", "connection reset", "connection closed", "certificate"):
        if known.lower() in text.lower():
            return known
    return re.sub(r"\?\S+", "", text)[:200].strip(" :")
