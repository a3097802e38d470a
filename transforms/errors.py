"""The error tree. Every message is one line: what is wrong, which value, and the fix."""

from __future__ import annotations

__all__ = [
    "ConfigError", "DataError", "DefinitionError", "FingerprintError", "GraphError", "OwnerError", "RejectLimitError", "RightsError",
    "StoreError", "TandemError",
    "first_line", "may_not_read", "ours_in", "some_of",
]  # fmt: skip


class TandemError(Exception):
    """Base of every error that Tandem raises on purpose."""


class DefinitionError(TandemError):
    """A feature definition contradicts itself or names something that does not exist."""


class ConfigError(TandemError):
    """A setting in ``tandem.yaml``, the environment or a flag is missing or wrong."""


class DataError(TandemError):
    """Input data is unusable as a whole (single bad events are dead letters, not errors)."""


class RejectLimitError(DataError):
    """More events were rejected than the configured share allows."""


class GraphError(TandemError):
    """A transform graph is missing, damaged, or does not fit its input."""


class StoreError(TandemError):
    """A feature store refused or failed an operation."""


class FingerprintError(StoreError):
    """Rows, graph and model do not stem from the same definitions."""


class OwnerError(StoreError):
    """The rows of a project in the online store are another data folder's, and a writer of before was refused."""


class RightsError(StoreError):
    """A store is there, and does not let its user do that."""


def some_of(names: list[str]) -> str:
    """Names for a message: the first six, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def first_line(error: BaseException) -> str:
    """Of somebody else's error: its kind, and the first line of what it says."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def may_not_read(error: PermissionError) -> DataError:
    """The line for a file that this user may not read: that says nothing of what is in it."""
    return DataError(f"{error.filename} cannot be read ({error.strerror}); grant this user access, or run as the owner")


def ours_in(error: BaseException) -> TandemError | None:
    """The error of ours that a library made one of its own of, as Feast does where it imports a store; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TandemError):
        cause = cause.__cause__
    return cause
