"""The embedded Flink as a child: it ticks, survives its workers, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from pipelines.lake.private import UNIX_SOCKETS, socket_folder
from pipelines.streaming.engines import flink
from pipelines.streaming.engines.cluster import FlinkClusterEngine
from pipelines.streaming.engines.direct import DirectEngine
from pipelines.streaming.engines.flink import FlinkEngine
from pipelines.streaming.engines.flink_job import FlinkJob, FlinkOptions
from pipelines.streaming.engines.flink_keys import subtask_of
from pipelines.streaming.engines.flink_rest import Cluster
from pipelines.streaming.engines.stream_engine import EngineOptions
from pipelines.streaming.engines.worker import start_worker
from pipelines.streaming.engines.worker_pool import TOKEN, WorkerPool, proof_of, shared_token
from tests.integration.ticking import KEYS, alive, counts, graph
from tests.listening import beyond_loopback, descendants, listeners
from tests.waiting import until
from transforms.errors import ConfigError
from transforms.own_program import module_command

pytestmark = pytest.mark.timeout(280)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def further(out, than=None, by=5):
    """Wait until every key was counted ``by`` further."""
    before = than or counts(out)
    until(lambda: len(now := counts(out)) == KEYS and all(now[k][0] >= before.get(k, (0, 0))[0] + by for k in now))
    return counts(out)


@pytest.mark.slow
def test_ticks_survives_its_workers_and_a_pause_and_ends_whole(tmp_path, out):
    said: list[str] = []
    job = FlinkJob(FlinkOptions(tmp_path / "flink", "ticking", checkpoint_seconds=0.5), graph(out), said.append)
    try:
        job.start()
        further(out)
        (worker,) = job.worker_pids()
        ours = descendants(job.pid, worker) | {os.getpid()}
        assert beyond_loopback(ours) == [], "SECURITY C1: nothing of an embedded engine is reached from another machine"
        if UNIX_SOCKETS:
            # SECURITY C1, H6: nor by another user of this one.
            assert len(listeners(descendants(job.pid, worker))) <= 2, "Flink's own: its REST interface and its blobs"
            folder = socket_folder(tmp_path / "flink")
            assert folder.stat().st_mode & 0o777 == 0o700 and len(list(folder.glob("*.sock"))) >= 6
        # A checkpoint is there once its folder is; what was counted before it is counted once.
        until(lambda: list((tmp_path / "flink" / "checkpoints").rglob("chk-*")))
        before = counts(out)
        os.kill(worker, signal.SIGKILL)
        until(lambda: all(pid != worker for _, pid in counts(out).values()))
        after = further(out, before)
        assert all(after[k][0] > before[k][0] for k in before), "the state came back"
        assert any("signal 9" in line for line in said)
        assert job.poll() is None
        for stopped in (job.pid, job.worker_pids()[0]):
            os.kill(stopped, signal.SIGSTOP)
            os.kill(stopped, signal.SIGCONT)
        further(out)
        pids = [job.pid, *job.worker_pids()]
    finally:
        job.stop()
    assert not any(alive(pid) for pid in pids)
    assert job.poll() is not None


@pytest.mark.slow
def test_a_graph_that_fails_ends_the_job_with_the_workers_own_line(tmp_path, out):
    (out / "bad").touch()
    job = FlinkJob(FlinkOptions(tmp_path / "flink", "failing", retries=0), graph(out))
    try:
        job.start()
        code = until(lambda: job.poll())
        assert code == 1
        assert job.error().startswith("ValueError: told to fail")
    finally:
        job.stop()


@pytest.mark.slow
def test_an_engine_that_cannot_start_ends_its_jvm_and_says_why(tmp_path, out):
    """Flink's main method throws after it has begun threads, which kept the JVM alive: the stream waited for ever and said nothing."""

    class OnATakenPort(FlinkJob):
        def _configure(self) -> Path:
            folder = super()._configure()
            with (folder / "flink-conf.yaml").open("a") as conf:
                conf.write(f"rest.bind-port: {taken.getsockname()[1]}\n")
            return folder

    with socket.create_server(("127.0.0.1", 0)) as taken:
        job = OnATakenPort(FlinkOptions(tmp_path / "flink", "nowhere", retries=0), graph(out))
        try:
            job.start()
            assert until(lambda: job.poll()) == 1
            assert str(taken.getsockname()[1]) in job.error()
        finally:
            job.stop()


DRIVER = """
from tandem.quick_imports import quicken_imports
quicken_imports()
import sys, time
from pathlib import Path
from pipelines.streaming.engines.flink_job import FlinkJob, FlinkOptions
from tests.integration.ticking import graph
job = FlinkJob(FlinkOptions(Path(sys.argv[1]), "orphan"), graph(Path(sys.argv[2])))
job.start()
(Path(sys.argv[2]) / "pids").write_text(str(job.pid))
while not job.worker_pids():
    time.sleep(0.05)
(Path(sys.argv[2]) / "pids").write_text(f"{job.pid} {job.worker_pids()[0]}")
time.sleep(600)
"""


@pytest.mark.slow
def test_nothing_is_left_when_the_driver_is_killed(tmp_path, out):
    driver = subprocess.Popen([sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path / "flink"), str(out)], cwd=ROOT)
    try:
        until(lambda: len(counts(out)) == KEYS)
        pids = [int(pid) for pid in (out / "pids").read_text().split()]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        os.kill(pids[1], signal.SIGSTOP)  # even one that cannot notice anything
        driver.kill()
        driver.wait()
        until(lambda: not any(alive(pid) for pid in pids), 10)
    finally:
        driver.kill()
        driver.wait()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"savepoint": "/tmp/sp"}, "the embedded Flink ignores savepoints; give --master"),
        ({"master": "cluster:8081"}, "--master needs --worker-pool"),
        ({"master": "http://cluster:8081", "worker_pool": "a:1"}, "write host:port"),
        ({"worker_pool": "a:1"}, "goes with --master"),
    ],
)
def test_mistakes_are_one_line(tmp_path, given, line):
    with pytest.raises(ConfigError, match=line):
        FlinkOptions(tmp_path, "x", **given)


def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match=r"--master 127\.0\.0\.1:1: no Flink cluster answers there"):
        Cluster("127.0.0.1:1").jobs("x")


def test_a_job_has_no_more_parts_than_tasks(tmp_path):
    """FAULTS 3, issue 10.6: eight shards in one task would be the same work eight times."""
    for tasks, asked, parts in ((1, 8, 1), (2, 8, 2), (4, 2, 2)):
        given = {"flink_master": "h:1", "worker_pool": "h:2"}
        assert FlinkClusterEngine(EngineOptions("x", tmp_path, parallelism=tasks, given=given)).parts(asked) == parts
    assert DirectEngine(EngineOptions("x", tmp_path)).parts(8) == 1
    assert DirectEngine(EngineOptions("x", tmp_path, given={"parts": "4"})).parts(8) == 4


def test_the_embedded_engine_divides_a_job_where_it_is_told_to(tmp_path, monkeypatch):
    """Issue 10.6: its tasks are threads of one process, so that more of them cost alone."""
    monkeypatch.setattr(flink, "start_worker", lambda *_: None)
    for tasks, given, asked, parts in (
        (1, {}, 8, 1), (8, {}, 8, 1), (1, {"parts": "8"}, 8, 8), (1, {"parts": "4"}, 2, 2), (4, {"parts": "4"}, 2, 2),
    ):  # fmt: skip
        said: list[str] = []
        engine = FlinkEngine(EngineOptions("x", tmp_path, parallelism=tasks, given=given), said.append)
        engine.prepare()
        assert engine.parts(asked) == parts
        assert len(said) == (tasks > int(given.get("parts", 1))), said
        keys = engine.shard_keys(parts)
        assert sorted(subtask_of(key, parts) for key in keys) == list(range(parts)), "a task each"
    with pytest.raises(ConfigError, match=r"^engine option 'parts': Input should be greater than or equal to 1"):
        FlinkEngine(EngineOptions("x", tmp_path, given={"parts": "0"}))
    with pytest.raises(ConfigError, match=r"^engine option 'parts': .* the options of --runner flink-cluster are: flink_master"):
        FlinkClusterEngine(EngineOptions("x", tmp_path, given={"flink_master": "h:1", "worker_pool": "h:2", "parts": "2"}))


def test_options_name_what_matters(tmp_path):
    options = FlinkOptions(tmp_path, "tandem-main", parallelism=2, checkpoint_seconds=1.5).beam_options("127.0.0.1:7", "token")
    values = options.get_all_options(retain_unknown_options=True, drop_default=True)
    expected = {
        "flink_master": "[local]",
        "environment_type": "EXTERNAL",
        "max_bundle_time_mills": "20",
        "checkpointing_interval": "1500",
        "parallelism": 2,
    }
    assert {name: values[name] for name in expected} == expected
    pool = json.loads(values["environment_config"])
    assert pool["url"] == "127.0.0.1:7" and set(pool["params"]) == {"nonce", "proof"}, "SECURITY H6: a proof of the token, not the token"


def start_worker_at(pool: WorkerPool, params: dict[str, str], runner: str | None = None) -> str:
    """What a pool answers: an empty text where it started a worker. ``runner``: where that is to report; None: where somebody listens."""
    with grpc.insecure_channel(pool.address) as channel, socket.create_server(("127.0.0.1", 0)) as listening:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1", params=params)
        request.control_endpoint.url = runner or f"127.0.0.1:{listening.getsockname()[1]}"
        try:
            return stub.StartWorker(request, timeout=20).error
        except grpc.RpcError as error:
            return error.code().name


def test_a_worker_pool_starts_workers_for_those_alone_who_know_its_token(tmp_path):
    """SECURITY H6: whoever may start a worker has it run what it likes."""
    said: list[str] = []
    pool = WorkerPool(tmp_path / "worker.log", "right", preload=(), say=said.append)
    try:
        for params in ({}, {"nonce": "n"}, {"nonce": "n", "proof": "right"}, proof_of("wrong"), {**proof_of("right"), "nonce": "another"}):
            assert start_worker_at(pool, params) == "PERMISSION_DENIED"
        assert pool.started == 0 and pool.pids() == [] and len(said) == 5
        assert start_worker_at(pool, proof_of("right")) == "" and pool.started == 1
    finally:
        pool.close()


def test_nobody_ends_a_worker_by_its_number(tmp_path):
    """SECURITY H6: StopWorker carries no token, and workers are numbered."""
    pool = WorkerPool(tmp_path / "worker.log", "right", preload=("time",))
    try:
        assert start_worker_at(pool, proof_of("right")) == ""
        (mine,) = pool.pids()
        with grpc.insecure_channel(pool.address) as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            for name in ("w", "1-1", ""):
                stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=name), timeout=20)
        assert pool.pids() == [mine]
    finally:
        pool.close()
    assert pool.pids() == []


def test_task_managers_that_number_their_workers_alike_share_a_pool(tmp_path):
    """Each calls its first worker 1-1: the second one must not take the place of the first."""
    pool = WorkerPool(tmp_path / "worker.log", "right", preload=("time",))
    try:
        assert [start_worker_at(pool, proof_of("right")) for _ in range(2)] == ["", ""]
        workers = pool.pids()
        assert len(set(workers)) == 2
    finally:
        pool.close()
    assert pool.pids() == [] and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_pool_that_cannot_reach_a_task_manager_says_so_and_starts_nothing(tmp_path):
    """A worker would wait for ever for a task manager that listens on another machine's loopback, and its job with it."""
    said: list[str] = []
    pool = WorkerPool(tmp_path / "worker.log", "right", preload=(), say=said.append)
    try:
        answer = start_worker_at(pool, proof_of("right"), "127.0.0.1:9")
        assert pool.started == 0 and said == [answer]
        assert "127.0.0.1:9, where nobody answers here" in answer and "--worker-pool localhost:PORT" in answer
    finally:
        pool.close()


def test_a_worker_that_dies_while_it_starts_has_another_in_its_place(tmp_path):
    """Its runner waits for it without end: a kill in these seconds stood a stream still for good."""
    said: list[str] = []
    served = threading.Event()

    class Runner(beam_fn_api_pb2_grpc.BeamFnControlServicer):
        def Control(self, request_iterator, context):
            yield beam_fn_api_pb2.InstructionRequest(instruction_id="1", register=beam_fn_api_pb2.RegisterRequest())
            next(request_iterator)
            served.set()
            threading.Event().wait(60)

    pool = WorkerPool(tmp_path / "worker.log", "right", preload=("time",), say=said.append)
    server = grpc.server(ThreadPoolExecutor(2))
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(Runner(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert start_worker_at(pool, proof_of("right"), f"127.0.0.1:{port}") == ""
        (first,) = pool.pids()
        assert not served.is_set()
        os.kill(first, signal.SIGKILL)
        until(lambda: pool.pids() not in ([], [first]), 20)
        assert said == ["an SDK worker ended by signal 9 (SIGKILL) while it started; starting another"] and not pool.failed
        assert served.wait(60), "the second one serves"
        (second,) = pool.pids()
        os.kill(second, signal.SIGKILL)
        until(lambda: len(said) == 2, 20)
        assert said[1] == "an SDK worker ended by signal 9 (SIGKILL); the engine starts another and resumes from its last checkpoint"
        assert pool.pids() == [] and pool.started == 2
    finally:
        pool.close()
        server.stop(0)


def test_workers_that_never_get_to_work_are_a_failure_of_the_engine(tmp_path):
    said: list[str] = []
    pool = WorkerPool(tmp_path / "worker.log", "right", preload=("no_such_module",), say=said.append)
    try:
        assert start_worker_at(pool, proof_of("right")) == ""
        until(lambda: pool.failed, 60)
        assert pool.started == 5 and pool.pids() == []
        assert pool.failed == f"5 SDK workers in a row ended while they started, the last one by exit code 1; see {tmp_path / 'worker.log'}"
        assert said[-1] == pool.failed and len(said) == 5
        job = FlinkJob(FlinkOptions(name="j", folder=tmp_path), lambda pipeline: None, said.append)
        job._pool, job._java = pool, subprocess.Popen(["sleep", "60"])
        assert job.poll() not in (None, 0) and job.error() == pool.failed, "and not waited for"
    finally:
        pool.close()


def test_a_worker_ends_when_its_runner_hangs_up_whatever_it_is_at(tmp_path):
    """It is not waited for: what it is at belongs to nobody any more."""
    hung_up = threading.Event()

    class Runner(beam_fn_api_pb2_grpc.BeamFnControlServicer):
        def Control(self, request_iterator, context):
            bundle = beam_fn_api_pb2.ProcessBundleRequest(process_bundle_descriptor_id="sleeps")
            yield beam_fn_api_pb2.InstructionRequest(instruction_id="1", process_bundle=bundle)
            hung_up.wait(60)

        def GetProcessBundleDescriptor(self, request, context):
            hung_up.set()  # the runner is gone while its worker waits for this answer
            threading.Event().wait(120)

    server = grpc.server(ThreadPoolExecutor(4))
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(Runner(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    worker = start_worker(tmp_path / "worker.log", ())
    assert worker.stdin is not None
    try:
        orders = {"control": f"127.0.0.1:{port}", "id": "w", "cache_bytes": 0, "path": []}
        worker.stdin.write(json.dumps(orders).encode() + b"\n")
        worker.stdin.flush()
        assert hung_up.wait(120), "it began with the bundle"
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
        worker.stdin.close()
        server.stop(0)


def test_a_clusters_worker_pool_does_not_start_without_a_token(tmp_path, monkeypatch):
    """SECURITY H6."""
    for variable in (TOKEN, f"{TOKEN}_FILE"):
        monkeypatch.delenv(variable, raising=False)
    command = module_command("pipelines.streaming.engines.worker_pool", "--service-port", "0", "--log", str(tmp_path / "log"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"needs a token: set {TOKEN}" in done.stderr
    with pytest.raises(ConfigError, match="needs a token"):
        shared_token()
    (tmp_path / "token").write_text("of a file\n")
    monkeypatch.setenv(f"{TOKEN}_FILE", str(tmp_path / "token"))
    assert shared_token() == "of a file"
