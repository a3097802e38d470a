"""What runs: one small file per service below ``<data>/services/``, written by its daemon. Light: standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pipelines.lake import layout
from pipelines.lake.data_files import read_json, write_json
from pipelines.lake.json_records import NewerFormatError, Record
from pipelines.lake.process_identity import ProcessId
from transforms.errors import DataError

__all__ = ["State", "address", "forget", "read", "services_folder", "write"]


def services_folder(data: Path) -> Path:
    """Where the local services of a data folder keep everything."""
    return layout.services(data)


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """A service as its daemon last said it is. ``ended`` tells how it ended if nobody asked it to."""

    WHAT: ClassVar[str] = "state of a service"

    service: str = ""
    address: str = ""
    folder: str = ""
    log: str = ""
    daemon: ProcessId
    process: ProcessId
    since: str = ""
    ended: str | None = None

    @classmethod
    def decoded(cls, name: str, value: Any, place: object) -> Any:
        """The processes are records of their own."""
        try:
            return ProcessId(**value) if name in ("daemon", "process") else value
        except TypeError:
            raise DataError(f"{place}: {name} is {value!r:.80}; it is no {cls.WHAT} of Tandem's") from None

    @property
    def alive(self) -> bool:
        """Whether its process is there (it may yet be stuck)."""
        return self.process.alive is True

    def with_end(self, code: int) -> State:
        """The same, ended by itself with this exit code (negative: a signal) now."""
        how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return dataclasses.replace(self, ended=f"{how} at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")


def _file(data: Path, service: str) -> Path:
    return services_folder(data) / f"{service}.json"


def read(data: Path, service: str) -> State | None:
    """The state of a service, None if it was never started or was stopped. A file that cannot be read counts as none; raises DataError
    for one of a newer Tandem."""
    file = _file(data, service)
    said = read_json(file)
    try:
        return None if said is None else State.of({"daemon": said.get("keeper"), **said}, file)  # as it was called in 0.1
    except NewerFormatError:
        raise
    except DataError:
        return None


def write(data: Path, state: State) -> None:
    """Keep a state; readers see the old one or the new one."""
    write_json(_file(data, state.service), state.to_dict())


def forget(data: Path, service: str) -> None:
    """The service was stopped."""
    _file(data, service).unlink(missing_ok=True)


def address(data: Path, service: str) -> str | None:
    """``host:port`` of a service whose process is there, else None."""
    state = read(data, service)
    return state.address if state is not None and state.alive else None
