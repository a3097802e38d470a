"""Google Cloud Storage, by Google's own library: its credentials, its retries, and generations as versions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

from serving.object_store.object_store import ObjectHead, ObjectStore, StoreAccessError, Unreachable, Versioned
from transforms.files import placed

__all__ = ["GoogleStore"]

Result = TypeVar("Result")

_SECONDS = 45.0
"""How long one request is tried again for throttling and the store's own faults."""


class GoogleStore(ObjectStore):
    """A bucket, by ``google.cloud.storage``; keys lie below the prefix of ``url``."""

    def __init__(self, url: str, bucket: str, prefix: str) -> None:
        from google.api_core.retry import Retry, if_transient_error
        from google.cloud import storage

        self.url, self._prefix = url, f"{prefix}/" if prefix else ""
        # Also of conditional writes: one whose answer was lost is recognised by its content.
        self._retry = Retry(predicate=lambda e: if_transient_error(e) or isinstance(e, ConnectionError), initial=0.2, timeout=_SECONDS)
        emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        project = os.environ.get("GOOGLE_CLOUD_PROJECT") or "unused"
        self._client: Any = self._do(lambda: storage.Client.create_anonymous_client() if emulated else storage.Client(project=project))
        self._bucket = self._client.bucket(bucket)

    def head(self, key: str) -> ObjectHead | None:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        try:
            self._do(lambda: blob.reload(retry=self._retry, timeout=60))
        except NotFound:
            self._nothing()
            return None
        return self._head(blob)

    def read(self, key: str) -> Versioned | None:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        for _ in range(10):
            try:
                self._do(lambda: blob.reload(retry=self._retry, timeout=60))
                at = blob.generation
                content = self._do(lambda: blob.download_as_bytes(if_generation_match=at, retry=self._retry, timeout=60))  # noqa: B023
                return Versioned(content, str(at))
            except NotFound:
                if self.head(key) is None:
                    return None
            except Exception as error:
                if type(error).__name__ != "PreconditionFailed":  # replaced between the two requests
                    raise
        raise Unreachable(f"{self.url}: {key} changes faster than it can be read")

    def put(self, key: str, content: bytes) -> str:
        """See ``ObjectStore``."""
        return self._put(key, content)

    def create(self, key: str, content: bytes) -> str | None:
        """See ``ObjectStore``."""
        return self._conditional(key, content, 0)

    def replace(self, key: str, content: bytes, version: str) -> str | None:
        """See ``ObjectStore``."""
        return self._conditional(key, content, int(version))

    def delete(self, key: str) -> None:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._do(lambda: self._bucket.blob(self._prefix + key).delete(retry=self._retry, timeout=60))

    def list(self, prefix: str = "") -> Iterator[ObjectHead]:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        def all_of_it() -> list[ObjectHead]:
            blobs = self._client.list_blobs(self._bucket, prefix=self._prefix + prefix, retry=self._retry, timeout=60)
            return [self._head(blob) for blob in blobs]

        try:
            yield from sorted(self._do(all_of_it), key=lambda head: head.key)
        except NotFound:
            raise StoreAccessError(self._no_bucket()) from None

    def upload(self, key: str, file: Path) -> str:
        """See ``ObjectStore``."""
        blob = self._bucket.blob(self._prefix + key)
        self._do(lambda: blob.upload_from_filename(str(file), retry=self._retry, timeout=300))
        return str(blob.generation)

    def download(self, key: str, file: Path) -> ObjectHead | None:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        try:
            self._do(lambda: blob.reload(retry=self._retry, timeout=60))
            at = blob.generation
            with placed(file) as part:
                self._do(lambda: blob.download_to_filename(str(part), if_generation_match=at, retry=self._retry, timeout=300))
            return self._head(blob)
        except NotFound:
            self._nothing()
            return None

    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        """See ``ObjectStore``."""
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        part = {"start": start, "end": start + length - 1, "checksum": None}  # that which the store tells is of the whole
        try:
            return self._do(lambda: bytes(blob.download_as_bytes(**part, retry=self._retry, timeout=60)))
        except NotFound:
            self._nothing()
            return None

    # ------------------------------------------------------------------------------------------------------------------------ inside

    def _put(self, key: str, content: bytes, **condition: Any) -> str:
        from google.api_core.exceptions import NotFound

        blob = self._bucket.blob(self._prefix + key)
        try:
            self._do(lambda: blob.upload_from_string(content, "application/octet-stream", retry=self._retry, timeout=60, **condition))
        except NotFound:
            if condition.get("if_generation_match"):  # the object is gone
                raise
            raise StoreAccessError(self._no_bucket()) from None
        return str(blob.generation)

    def _conditional(self, key: str, content: bytes, generation: int) -> str | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            return self._put(key, content, if_generation_match=generation)
        except (PreconditionFailed, NotFound):
            there = self.read(key)
            return there.version if there is not None and there.content == content else None

    def _do(self, act: Callable[[], Result]) -> Result:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            return act()
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise StoreAccessError(
                f"{self.url}: access is refused ({error.code}); this machine's credentials need the right to list, read and write"
            ) from None
        except GoogleAuthError:
            raise StoreAccessError(
                f"{self.url}: this machine has no credentials for it; set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud"
            ) from None
        except (exceptions.NotFound, exceptions.PreconditionFailed):
            raise
        except (exceptions.RetryError, exceptions.ServerError, exceptions.TooManyRequests, RequestException, ConnectionError) as error:
            cause = getattr(error, "cause", None) or error
            said = f"{getattr(cause, 'code', '') or type(cause).__name__}"
            raise Unreachable(f"{self.url}: the store cannot be reached, or fails ({said})") from None
        except exceptions.GoogleAPICallError as error:
            raise StoreAccessError(f"{self.url}: the store refuses ({error.code}); correct data: or the credentials") from None

    def _head(self, blob: Any) -> ObjectHead:
        modified = blob.updated.astimezone(UTC)
        return ObjectHead(blob.name.removeprefix(self._prefix), blob.size, str(blob.generation), modified)

    def _nothing(self) -> None:
        """A missing bucket looks like a missing object. Raises StoreAccessError."""
        next(iter(self.list("no/such/")), None)

    def _no_bucket(self) -> str:
        return f"{self.url}: there is no such bucket; create it, or correct data:"
