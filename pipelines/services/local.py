"""Start, stop and look at the local services of a data folder (what ``tandem up``, ``down`` and ``status`` do)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.lake.process_identity import ProcessId
from pipelines.lake.processes import let_go, reason, start_detached
from pipelines.services import jars
from pipelines.services import kafka_broker as kafka
from pipelines.services import redis_server as redis
from pipelines.services import service_state as state
from transforms.errors import StoreError
from transforms.locks import lock
from transforms.own_program import module_command

__all__ = ["SERVICES", "ServiceStatus", "down", "status", "up"]

SERVICES = ("kafka", "redis")
SECONDS_TO_STOP = 40.0
SECONDS_TO_ANSWER = 5.0  # of a busy machine, too
BUSY = "another 'tandem up' or 'tandem down' is running here; waiting for it"
Say = Callable[[str], None]


def _answers(known: state.State) -> bool:
    port = int(known.address.rpartition(":")[2])
    if known.service == "redis":
        return redis.answers(port, SECONDS_TO_ANSWER, redis.password_of(Path(known.folder)))
    found = kafka.answers(port, SECONDS_TO_ANSWER, kafka.password_of(Path(known.folder)))
    return found is not None and port in found[1]


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """How a service is: not started or stopped in order, gone by itself, there without an answer, or there. But for ``state`` all is empty
    where it is stopped; ``detail`` says what to know of one that does not run as it should."""

    state: Literal["running", "silent", "ended", "stopped"]
    address: str = ""
    pid: int | None = None
    since: str = ""
    folder: str = ""
    log: str = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"state": "stopped"} if self.state == "stopped" else dict(vars(self))


def status(data: Path) -> dict[str, ServiceStatus]:
    """Service -> how it is, of all that there may be. Raises DataError where a newer Tandem runs one."""
    return {service: _status(state.read(data, service)) for service in SERVICES}


def _status(known: state.State | None) -> ServiceStatus:
    if known is None:
        return ServiceStatus(state="stopped")
    now: Literal["running", "silent", "ended"] = "running"
    detail = ""
    if not known.alive:
        now, detail = "ended", f"{known.ended or 'it was killed together with its daemon'}; 'tandem up' starts it again on the same data"
    elif not _answers(known):
        now, detail = "silent", "its process is running but does not respond; see its log, or stop it with 'tandem down'"
    return ServiceStatus(
        state=now,
        address=known.address,
        pid=known.process.pid,
        since=known.since,
        folder=known.folder,
        log=known.log,
        detail=detail,
    )


def up(data: Path, *, with_redis: bool = False, kafka_port: int = 0, redis_port: int = 0, say: Say = lambda line: None) -> None:
    """Start what does not run yet, ready when this returns. Raises TandemError: the service that did not start is gone
    then, others stay as they are."""
    wanted = {"kafka": kafka_port, **({"redis": redis_port} if with_redis else {})}
    with lock(state.services_folder(data) / ".lock", lambda: say(BUSY)):
        if state.address(data, "kafka") is None:
            jars.java()
            jars.classpath("kafka", say)
        for service, port in wanted.items():
            _start(data, service, port, say)


def _start(data: Path, service: str, port: int, say: Say) -> None:
    known = state.read(data, service)
    if known is not None and known.alive:
        if not _answers(known):
            raise StoreError(
                f"{service} (pid {known.process.pid}) is running but does not respond; see {known.log}, or stop it with 'tandem down'"
            )
        asked = f"; for port {port}: 'tandem down' first" if port and not known.address.endswith(f":{port}") else ""
        say(f"{service} is already running on {known.address}{asked}")
        return
    again = f" again ({known.ended or 'it was killed'})" if known is not None else ""
    log = state.services_folder(data) / f"{service}-daemon.log"
    begun = time.monotonic()
    command = module_command("pipelines.services.daemon", service, str(data.resolve()), str(port))
    daemon = start_detached(command, log, new_log=True, stdout=subprocess.PIPE)
    assert daemon.stdin is not None and daemon.stdout is not None
    try:
        line = daemon.stdout.readline()
        answer = json.loads(line) if line else {"error": f"{service} did not start: {reason(log)}; see {log}"}
        if "error" in answer:
            raise StoreError(answer["error"])
        daemon.stdin.write(b"ok")
        daemon.stdin.flush()
    except BaseException:
        daemon.stdin.close()  # tells the daemon to end
        daemon.wait()
        daemon.stdout.close()
        raise
    let_go(daemon)
    address = state.address(data, service)
    if address is None:
        raise StoreError(f"{service} exited right after starting; see {log}")
    say(f"{service} is running{again} on {address} ({time.monotonic() - begun:.1f} s)")
    if service == "redis":
        file = state.services_folder(data) / "redis" / redis.PASSWORD
        say(f"its password is in {file}; in feature_store.yaml: connection_string: {address},password=...")


def down(data: Path, *, delete: bool = False, say: Say = lambda line: None) -> list[str]:
    """Stop what runs, in order; the names of what was stopped. With ``delete`` their data goes too."""
    stopped = []
    with lock(state.services_folder(data) / ".lock", lambda: say(BUSY)):
        for service in SERVICES:
            known = state.read(data, service)
            if known is not None:
                was_there = known.alive
                _end(known.daemon, SECONDS_TO_STOP)
                _end(known.process, SECONDS_TO_STOP)  # of a daemon that was killed where nothing ties a child to it
                state.forget(data, service)
                if was_there:
                    stopped.append(service)
                    say(f"stopped {service} on {known.address}")
                else:
                    say(f"{service} had already exited ({known.ended or 'it was killed'})")
            folder = state.services_folder(data) / service
            if delete and folder.exists():
                shutil.rmtree(folder)
                say(f"deleted {folder}")
    return stopped


def _end(process: ProcessId, seconds: float) -> None:
    """SIGTERM (and SIGCONT, in case it is held), wait, then SIGKILL. Another process that has its number now is left alone."""
    deadline = time.monotonic() + seconds
    for number in (signal.SIGTERM, signal.SIGCONT):
        _signal(process, number)
    while process.alive:
        if time.monotonic() > deadline:
            _signal(process, signal.SIGKILL)
            deadline = time.monotonic() + 10
        time.sleep(0.05)


def _signal(process: ProcessId, number: int) -> None:
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
