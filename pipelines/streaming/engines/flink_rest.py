"""A Flink cluster's REST interface: find a job, stop it with a savepoint, cancel it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from pipelines.streaming.engines.stream_engine import EngineSettings
from transforms.errors import ConfigError, TandemError

__all__ = ["Cluster", "FlinkSettings", "check_flags"]

_ENDED = {"FINISHED", "CANCELED", "FAILED"}
_SECONDS_TO_CANCEL = 60.0
_MOST_BYTES = 16 << 20
"""Of an answer, decompressed; thousands of jobs with their exceptions are below it."""
_NOT_NOW = ("Not all required tasks are currently running", "Checkpoint Coordinator is suspending")
"""Flink's reasons why there is no savepoint while a task starts, or starts again."""


class FlinkSettings(EngineSettings):
    """The flags of ``tandem stream`` for a cluster: ``host:port`` of its REST interface and of a pool of SDK workers beside the task
    managers, or the command by which a task manager starts a worker."""

    flink_master: str | None = None
    worker_pool: str | None = None
    worker_command: str | None = None


def check_flags(master: str | None, worker_pool: str | None, savepoint: str | None, worker: str | None = None) -> None:
    """Raise ConfigError for flags that do not go together. ``master`` None stands for the embedded Flink."""
    if savepoint and master is None:
        raise ConfigError(
            f"--from-savepoint {savepoint}: the embedded Flink ignores savepoints; give --master host:port,"
            " or leave it out: the stream resumes from its own checkpoint"
        )
    if master is not None and not re.fullmatch(r"[^\s:/]+:\d+", master):
        raise ConfigError(f"--master {master}: write host:port of the cluster's REST interface, such as localhost:8081")
    if master is not None and not worker_pool and not worker:
        raise ConfigError(
            "--master needs --worker-pool host:port, where the task managers reach a pool of SDK workers;"
            " start one beside them: tandem -m pipelines.streaming.engines.worker_pool --service-port 50000;"
            " or give --worker-command tandem-worker, which they start themselves"
        )
    if worker_pool and worker:
        raise ConfigError(f"--worker-command {worker} and --worker-pool {worker_pool} are alternatives; remove one of them")
    if worker and master is None:
        raise ConfigError(f"--worker-command {worker} goes with --master; the embedded Flink starts its own")
    if worker_pool and master is None:
        raise ConfigError(f"--worker-pool {worker_pool} goes with --master; the embedded Flink has its own")


class Cluster:
    """The cluster whose REST interface answers at ``master`` (``host:port``)."""

    def __init__(self, master: str, timeout: float = 10.0, election_seconds: float = 30.0) -> None:
        self.master, self.timeout, self.election_seconds = master, timeout, election_seconds

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request; the answer's JSON. While the cluster starts or elects a leader it says so (503) and has done nothing: it is asked
        again for ``election_seconds``. Raises ConfigError when nobody answers, or no Flink does; TandemError when it is refused.

        Redirects are not followed: Flink sends none, and what it is told to start or stop is for it alone."""
        until = time.monotonic() + self.election_seconds
        while True:
            status, text = self._sent(method, path, None if body is None else json.dumps(body).encode())
            if status == 503 and time.monotonic() < until:
                time.sleep(0.2)
                continue
            if status >= 400:
                detail = text.decode(errors="replace")[:500].replace("\n", " ")
                raise TandemError(f"Flink at {self.master} refused {method} {path}: {status} {detail}")
            try:
                found = json.loads(text) if text else {}
            except (ValueError, RecursionError):
                found = None
            if status >= 300 or not isinstance(found, dict):
                raise self._strange(f"answers {method} {path} as no Flink cluster does (status {status})")
            return found

    def _sent(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and body of one answer, which has come in whole."""
        import requests

        from pipelines.project.http import as_it_is, reason
        from serving.bounded_http import read_answer, within

        def exchange() -> tuple[int, bytes]:
            with requests.Session() as session:
                session.trust_env = False  # no proxy between us and the cluster
                with session.request(
                    method,
                    f"http://{self.master}/v1/{path}",
                    data=body,
                    headers={"Content-Type": "application/json"},
                    auth=as_it_is,
                    timeout=self.timeout,
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    return answer.status_code, read_answer(answer, _MOST_BYTES, self.timeout)

        try:
            status, text = within(2 * self.timeout, self.master, exchange)
        except (requests.RequestException, OSError) as error:
            raise ConfigError(
                f"--master {self.master}: no Flink cluster answers there ({reason(error)}); correct the address or start it"
            ) from None
        if len(text) > _MOST_BYTES:
            raise self._strange(f"answers {method} {path} with more than {_MOST_BYTES >> 20} MiB")
        return status, text

    def _strange(self, what: str) -> ConfigError:
        return ConfigError(f"--master {self.master} {what}; write host:port of a Flink cluster's REST interface")

    def jobs(self, name: str) -> list[dict[str, Any]]:
        """The jobs called ``name`` that have not ended, newest first: ``jid``, ``state``, ``tasks``."""
        found = [j for j in self.ask("GET", "jobs/overview").get("jobs", []) if j["name"] == name and j["state"] not in _ENDED]
        return sorted(found, key=lambda job: -int(job["start-time"]))

    def running(self, name: str) -> dict[str, Any] | None:
        """The job called ``name`` with all its tasks running, or None (a job is RUNNING long before its tasks are)."""
        for job in self.jobs(name):
            if job["state"] == "RUNNING" and job["tasks"]["running"] == job["tasks"]["total"] > 0:
                return job
        return None

    def prepares(self, name: str) -> bool:
        """Whether the job manager has taken the job called ``name`` and not begun it: it looks for the place of its checkpoints. False
        where nobody can tell."""
        try:
            return any(job["state"] == "INITIALIZING" for job in self.jobs(name)[:1])
        except TandemError:
            return False

    def exception(self, name: str) -> str:
        """The first line of why the job called ``name`` failed the last time; empty where it has not, or nobody can tell."""
        try:
            found = [self.ask("GET", f"jobs/{job['jid']}/exceptions").get("root-exception") or "" for job in self.jobs(name)[:1]]
        except TandemError:
            return ""
        lines = [line for text in found for line in text.splitlines() if line.strip()]
        causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
        return (causes or lines or [""])[-1 if causes else 0].strip()[:300]

    def cancel_jobs(self, name: str, say: Callable[[str], None] = lambda line: None) -> None:
        """Cancel all jobs called ``name`` and wait until they have ended. Raises TandemError when they do not."""
        for job in self.jobs(name):
            say(f"job {job['jid']} of this stream still runs at {self.master}; cancelling it")
            self.ask("PATCH", f"jobs/{job['jid']}?mode=cancel")
        until = time.monotonic() + _SECONDS_TO_CANCEL
        while left := self.jobs(name):
            if time.monotonic() > until:
                raise TandemError(f"job {left[0]['jid']} at {self.master} does not stop; cancel it there, then start again")
            time.sleep(0.2)

    def stop_with_savepoint(self, name: str, seconds: float = 120.0) -> str:
        """Stop the job with a savepoint (not drained: that would hang); returns the savepoint's path. Raises TandemError.

        While a task of it is being started, or started again after a fault, Flink makes none: it is asked anew, for half of ``seconds``.
        """
        jobs = self.jobs(name)
        if not jobs:
            raise TandemError(f"no job called {name} runs at {self.master}; see its overview page")
        job = jobs[0]["jid"]
        until = time.monotonic() + seconds
        while "location" not in (operation := self._stopped(job, until)):
            reason = operation.get("failure-cause", {}).get("stack-trace", "unknown").splitlines()[0]
            if not any(word in reason for word in _NOT_NOW) or time.monotonic() > until - seconds / 2:
                raise TandemError(f"job {job} at {self.master} could not be stopped with a savepoint: {reason}")
            time.sleep(0.2)
        return str(operation["location"])

    def _stopped(self, job: str, until: float) -> dict[str, Any]:
        """What became of one try to stop it with a savepoint: its ``location``, or a ``failure-cause``."""
        trigger = self.ask("POST", f"jobs/{job}/stop", {"drain": False})["request-id"]
        while (answer := self.ask("GET", f"jobs/{job}/savepoints/{trigger}"))["status"]["id"] != "COMPLETED":
            if time.monotonic() > until:
                raise TandemError(f"the savepoint of job {job} at {self.master} is not done in time; see its overview page")
            time.sleep(0.2)
        return dict(answer["operation"])
