"""The errors of a request, and the one table that says which HTTP status each of them is."""

from __future__ import annotations

from transforms.errors import FingerprintError, StoreError, TandemError

__all__ = [
    "STATUS",
    "BadRequestError",
    "ClientGoneError",
    "ForbiddenError",
    "InvalidRequestError",
    "MediaTypeError",
    "ModelError",
    "ModelInputError",
    "NotFoundError",
    "OverloadedError",
    "RateLimitedError",
    "TimedOutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "status_of",
]


class BadRequestError(TandemError):
    """The body is not what the protocol says: no JSON, no object, a key that it does not know."""


class InvalidRequestError(TandemError):
    """The body is well formed but a value in it is missing, of the wrong type or out of range."""


class MediaTypeError(TandemError):
    """The body is declared to be something other than JSON."""


class TooLargeError(TandemError):
    """The body, or the number of instances in it, is above the limit."""


class UnauthenticatedError(TandemError):
    """The request bears no credential that the server knows."""


class ForbiddenError(TandemError):
    """Who asks is known, and may not do this."""


class RateLimitedError(TandemError):
    """Who asks has asked for more than its share; ``retry_seconds`` says when there is room again."""

    def __init__(self, message: str, retry_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class ClientGoneError(TandemError):
    """Who asked has hung up; nobody reads the answer."""


class NotFoundError(TandemError):
    """No such model, version, feature or feature service."""


class UnavailableError(TandemError):
    """The request is fine, but the server cannot answer it now; the same request may succeed later."""


class OverloadedError(UnavailableError):
    """All threads are busy and too many requests wait already."""


class TimedOutError(UnavailableError):
    """The answer took longer than the server's limit."""


class ModelError(TandemError):
    """A model version is incomplete, damaged, or does not fit the store; it is not served."""


class ModelInputError(ModelError):
    """A column does not fit the model's input."""


STATUS: tuple[tuple[type[TandemError], int], ...] = (
    (BadRequestError, 400),
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (TooLargeError, 413),
    (MediaTypeError, 415),
    (InvalidRequestError, 422),
    (RateLimitedError, 429),
    (ClientGoneError, 499),
    (FingerprintError, 503),
    (StoreError, 503),
    (UnavailableError, 503),
    (ModelError, 503),
)
"""First match wins. What is not here is a defect of the server: 500, with no details in the answer."""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)
