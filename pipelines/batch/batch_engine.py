"""What runs the pipelines of a batch run. Nothing here imports Beam."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

__all__ = ["BatchEngine"]


class BatchEngine(ABC):
    """Where the pipelines of a batch run are run; ``name`` is for manifests."""

    name: str
    elsewhere: bool = False
    """Whether its workers are on other machines: they share the data folder where it is a mounted one, and reach an object store by
    themselves."""

    has_code: bool = False
    """Whether it has several workers, and these the repository's code: then they learn graphs."""

    @property
    def alone(self) -> bool:
        """Whether one worker in this process does everything: a file is then read whole, as its parts would be read one after the other."""
        return False

    def ready(self) -> None:  # noqa: B027  # most are
        """Asked before anything is read. Raises ConfigError, one line that names the flag, where nothing can be run: there is no such
        engine, or its cluster does not answer."""

    @abstractmethod
    def pipeline(self, folder: Path) -> AbstractContextManager[Any]:
        """A ``beam.Pipeline``, which is run when the block ends: all of it is done then. ``folder``: where the engine may keep what it
        needs and says.

        Raises DataError of one line where the engine fails, or whatever else Beam does."""
