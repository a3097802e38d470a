"""The service daemon: keeps one service running after ``tandem up`` has gone. ``tandem -m pipelines.services.daemon SERVICE DATA PORT``.

The service is the daemon's child and dies with it, however it dies. Until whoever started the daemon has taken the answer (a line of
JSON on standard output) and said "ok" on standard input, the daemon dies with *it*: a closed standard input means that it is gone.
After that, the daemon waits: for SIGTERM, upon which it stops the service in order, or for the service's own end, which it notes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipelines.lake.process_identity import ProcessId
from pipelines.services import service_state as state
from transforms.errors import StoreError, TandemError
from transforms.locks import take

__all__ = ["Service", "main", "make"]

SECONDS_FOR_THE_LAST_ONE = 20


class Service(Protocol):
    """What is kept."""

    folder: Path
    log: Path
    process: Any

    @property
    def address(self) -> str:
        """``host:port``."""

    def start(self) -> None:
        """Start, and return when it is ready."""

    def stop(self) -> None:
        """Stop in order."""


def make(service: str, data: Path, port: int) -> Service:
    """The service called so; ``port`` 0 leaves the choice to it."""
    folder = state.services_folder(data) / service
    if service == "kafka":
        from pipelines.services.kafka_broker import Broker

        return Broker(folder, port=port or None, secured=True)
    from pipelines.services.redis_server import Redis

    return Redis(folder, port=port or None)


def _watch(service: Service, taken: threading.Event) -> None:
    """Ends this process and the service when standard input ends before the answer was taken."""
    if os.read(0, 2) != b"ok":
        if service.process is not None:  # where the kernel ties it to us, that alone would do
            service.process.kill()
        os._exit(1)
    taken.set()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _hold(folder: Path, service: str) -> int:
    """Be the only daemon of this service; the hold ends with the process, and no child inherits it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f".{service}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    deadline = time.monotonic() + SECONDS_FOR_THE_LAST_ONE
    while True:
        if take(handle):
            return handle
        if time.monotonic() > deadline:
            raise StoreError(f"another daemon of {service} is still running in {folder}; stop it with tandem down")
        time.sleep(0.05)


def main(name: str, data: Path, port: int) -> int:
    """See the module."""
    service, taken = make(name, data, port), threading.Event()
    threading.Thread(target=_watch, args=(service, taken), daemon=True).start()

    def asked(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a terminal sends is for the command, not for us
    try:
        held = _hold(state.services_folder(data), name)
        service.start()
        own, process = ProcessId.current(), ProcessId.of(service.process.pid)
        if process is None:
            raise StoreError(f"{name} exited right after starting; see {service.log}")
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        known = state.State(
            service=name,
            address=service.address,
            folder=str(service.folder),
            log=str(service.log),
            daemon=own,
            process=process,
            since=now,
        )
        state.write(data, known)
        _say({"ready": True})
        taken.wait()
        code = service.process.wait()
        state.write(data, known.with_end(code))
        os.close(held)
        return 1
    except SystemExit:
        service.stop()
        state.forget(data, name)
        return 0
    except (TandemError, OSError) as error:
        _say({"error": " ".join(str(error).split())})
        return 1
    finally:
        service.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
