"""A Flink cluster's REST interface while it starts: it answers 503 until it has a leader."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.streaming.engines.flink_job import FlinkJob, FlinkOptions
from pipelines.streaming.engines.flink_rest import Cluster
from transforms.errors import ConfigError, TandemError


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; its address, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            code, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if code in (302, 307):
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            with suppress(ConnectionError):  # who asked has read enough
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ELECTION = (503, b'{"errors": ["Service temporarily unavailable due to an ongoing leader election. Please refresh."]}')


def test_an_election_is_waited_for() -> None:
    with answering(ELECTION, ELECTION, (200, b'{"slots-available": 2}')) as (master, asked):
        assert Cluster(master).ask("GET", "overview") == {"slots-available": 2}
    assert asked == ["/v1/overview"] * 3


def test_one_that_does_not_end_is_told() -> None:
    with answering(ELECTION) as (master, _), pytest.raises(TandemError, match=r"503 .*leader election"):
        Cluster(master, election_seconds=0).ask("GET", "overview")


def test_a_refusal_is_told_at_once() -> None:
    with answering((404, b"no such job")) as (master, asked), pytest.raises(TandemError, match="refused GET jobs/x: 404 no such job"):
        Cluster(master).ask("GET", "jobs/x")
    assert len(asked) == 1


JOBS = (200, b'{"jobs": [{"jid": "a1", "name": "tandem-main", "state": "RUNNING", "start-time": 1}]}')
TRIGGER = (202, b'{"request-id": "t"}')


def completed(operation: dict[str, object]) -> tuple[int, bytes]:
    return 200, json.dumps({"status": {"id": "COMPLETED"}, "operation": operation}).encode()


def test_a_savepoint_waits_for_tasks_that_are_being_started() -> None:
    """As after a task manager's death: Flink refuses at once, for some seconds."""
    starting = completed({"failure-cause": {"stack-trace": "CheckpointException: Not all required tasks are currently running.\n\tat x"}})
    made = completed({"location": "file:/savepoints/1"})
    with answering(JOBS, TRIGGER, starting, TRIGGER, starting, TRIGGER, made) as (master, asked):
        assert Cluster(master).stop_with_savepoint("tandem-main") == "file:/savepoints/1"
    assert asked.count("/v1/jobs/a1/stop") == 3


@pytest.mark.parametrize(("reason", "seconds"), [("Not all required tasks are currently running.", 0.0), ("the disk is full", 60.0)])
def test_a_savepoint_that_is_not_made_has_a_reason(reason: str, seconds: float) -> None:
    failed = completed({"failure-cause": {"stack-trace": f"CheckpointException: {reason}\n\tat x"}})
    with (
        answering(JOBS, TRIGGER, failed) as (master, asked),
        pytest.raises(TandemError, match=f"savepoint: CheckpointException: {reason}$"),
    ):
        Cluster(master).stop_with_savepoint("tandem-main", seconds=seconds)
    assert asked.count("/v1/jobs/a1/stop") == 1


def test_nobody_there() -> None:
    with answering((200, b"")) as (master, _):
        pass
    with pytest.raises(ConfigError, match="no Flink cluster answers there"):
        Cluster(master).ask("GET", "overview")


@pytest.mark.parametrize("code", [302, 307])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_redirect_is_followed(code: int, method: str) -> None:
    with answering((code, b"{}")) as (master, asked), pytest.raises(ConfigError, match=rf"as no Flink cluster does \(status {code}\)"):
        Cluster(master).ask(method, "overview")
    assert asked == ["/v1/overview"]


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"[" * 100_000, b"\xff"])
def test_what_is_no_answer_of_flinks_is_one_line(body: bytes) -> None:
    with answering((200, body)) as (master, _), pytest.raises(ConfigError, match="as no Flink cluster does") as refused:
        Cluster(master).ask("GET", "overview")
    assert "\n" not in str(refused.value)


def test_an_answer_without_end_is_given_up() -> None:
    with answering((200, b" " * (20 << 20))) as (master, _), pytest.raises(ConfigError, match="with more than 16 MiB"):
        Cluster(master).ask("GET", "overview")


def test_one_that_comes_drop_by_drop_is_given_up() -> None:
    """The limit of a socket is of each wait for a byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            with server.accept()[0] as client, suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.05):
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(ConfigError, match="no Flink cluster answers there"):
                Cluster(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.2).ask("GET", "overview")
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("checkpoints", "state", "why"),
    [
        ("s3://b/flink", b"INITIALIZING", "Flink's job manager does not get through to stream.checkpoints s3://b/flink: look into its log"),
        ("s3://b/flink", b"RUNNING", "each task manager asks localhost:50000 for workers"),
        ("", b"INITIALIZING", "each task manager asks localhost:50000 for workers"),
    ],
)
def test_a_job_that_is_not_begun_waits_for_the_place_of_its_checkpoints(tmp_path: Path, checkpoints: str, state: bytes, why: str) -> None:
    """So it was with a plugin for S3 whose server was not there."""
    with answering((200, JOBS[1].replace(b"RUNNING", state))) as (master, _):
        options = FlinkOptions(tmp_path, "tandem-main", master=master, worker_pool="localhost:50000", checkpoints=checkpoints)
        told = FlinkJob(options, lambda pipeline: None).unheard(["shard 0"])
    assert told is not None and told.startswith(why)


def refused(scheme: str, how: str = "no Hadoop file system to support this scheme could be loaded") -> str:
    return (
        'Exception in thread "main" java.lang.RuntimeException: Job x failed.\n'
        "Caused by: org.apache.flink.core.fs.UnsupportedFileSystemSchemeException: Could not find a file system implementation for scheme"
        f" '{scheme}'. The scheme is {how}. For a full list of supported file systems, please see https://nightlies.apache.org/flink.\n"
    )


NO_HADOOP = "Caused by: org.apache.flink.core.fs.UnsupportedFileSystemSchemeException: Hadoop is not in the classpath/dependencies.\n"
PLUGINS = (
    "directly supported by Flink through the following plugin(s): flink-s3-fs-hadoop, flink-s3-fs-presto. Please ensure that each plugin"
)


@pytest.mark.parametrize(
    ("checkpoints", "savepoint", "log", "line"),
    [
        (
            "s3://b/flink",
            None,
            refused("s3", PLUGINS),
            "stream.checkpoints s3://b/flink: Flink at h:1 has no file system for such a URL; its job manager and each task manager need a"
            " plugin (flink-s3-fs-hadoop, flink-s3-fs-presto)",
        ),
        (
            "hdfs://b/flink",
            "file:///mnt/savepoint-1",
            refused("hdfs") + NO_HADOOP,
            "stream.checkpoints hdfs://b/flink: Flink at h:1 has no file system for such a URL; use one that it has",
        ),
        (
            "s3://b/flink",
            "hdfs://b/savepoint-1",
            refused("hdfs") + NO_HADOOP,
            "--from-savepoint hdfs://b/savepoint-1: Flink at h:1 has no file system for such a URL; use one that it has",
        ),
        (
            "",
            "hdfs://b/sp",
            refused("hdfs"),
            "--from-savepoint hdfs://b/sp: Flink at h:1 has no file system for such a URL; use one that it has",
        ),
        ("s3://b/flink", None, refused("gs") + NO_HADOOP, ""),
        ("s3://b/flink", "/mnt/savepoint-1", NO_HADOOP, ""),
    ],
)
def test_the_url_that_flink_has_no_file_system_for_is_the_one_of_its_scheme(
    tmp_path: Path, checkpoints: str, savepoint: str | None, log: str, line: str
) -> None:
    """A savepoint's was told as the checkpoints'."""
    options = FlinkOptions(tmp_path, "x", master="h:1", worker_pool="h:2", checkpoints=checkpoints, savepoint=savepoint)
    assert options.without_file_system(log) == line
