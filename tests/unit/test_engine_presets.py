"""The engines of batch runs, without starting one: presets, the code that travels, how a worker is told what it is for."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from pipelines.batch.batch_job import run_batch
from pipelines.batch.beam_options import BeamEngine
from pipelines.engines import portable_job
from pipelines.engines.batch_engines import EngineFlags, engine_of
from pipelines.engines.dataflow import DataflowEngine
from pipelines.engines.job_wheel import write_wheel
from pipelines.engines.worker_boot import environment_of
from pipelines.lake import staged_code
from pipelines.lake.processes import free_ports
from pipelines.lake.staged_code import REPO, unpack
from serving.object_store.cache import FOLDER, data_path
from transforms.errors import ConfigError
from transforms.tensorflow_settings import SETTINGS


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    """A repository with a module, a secret, and its data inside."""
    place = tmp_path / "shop"
    (place / "data").mkdir(parents=True)
    (place / "features.py").write_text("NAME = 'shop'\n")
    (place / ".env").write_text("TOKEN=1\n")
    (place / "data/events.jsonl").write_text("{}\n")
    return SimpleNamespace(path=place, data=place / "data")


def test_the_code_that_travels_is_tandem_and_the_repository(repo: Any, tmp_path: Path) -> None:
    made = staged_code.staged_code(repo.path, repo.data)
    assert made == staged_code.staged_code(repo.path, repo.data)
    names = zipfile.ZipFile(io.BytesIO(made)).namelist()
    assert {f"{REPO}/features.py", "transforms/windows.py"} <= {*names} and [n for n in names if n.endswith(".lua")]
    assert not [n for n in names if n.startswith(f"{REPO}/data/") or "/." in n]
    folder = unpack(made, tmp_path)
    assert folder == unpack(made, tmp_path)
    told = subprocess.run(  # an interpreter that sees the unpacked code alone, beside the libraries
        [sys.executable, "-P", "-c", "import features, pipelines.batch.steps as s; print(features.NAME, s.__file__)"],
        env={"PYTHONPATH": f"{folder}:{folder / REPO}", "PATH": "/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.split() == ["shop", str(folder / "pipelines/batch/steps.py")], told.stderr


def test_a_repository_of_more_than_code_is_refused(repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_code, "MOST_BYTES", 10)
    (repo.path / "weights.bin").write_bytes(b"0" * 100)
    with pytest.raises(ConfigError, match=r"the largest file of the repository is weights\.bin"):
        staged_code.staged_code(repo.path, repo.data)


@pytest.mark.parametrize(
    ("name", "master"), [("flink", None), ("spark", None), ("flink", "127.0.0.1:{port}"), ("spark", "spark://127.0.0.1:{port}")]
)  # fmt: skip
def test_code_is_sent_to_other_machines_alone(
    repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, master: str | None
) -> None:
    """Workers of this machine have it: a repository that holds more than code runs on an embedded engine."""
    sent: list[bytes] = []

    class Runner(PipelineRunner):
        def __init__(self, program: object, folder: Path, job: str, code: bytes) -> None:
            sent.append(code)

        def run_pipeline(self, pipeline: object, options: object) -> PipelineResult:
            return portable_job._Done()

    monkeypatch.setattr(portable_job, "JvmRunner", Runner)
    with socket.create_server(("127.0.0.1", 0)) as there:
        flags = EngineFlags(master=master and master.format(port=there.getsockname()[1]))
        with engine_of(name, repo, flags, []).pipeline(tmp_path):
            pass
    (code,) = sent
    assert bool(code) == (master is not None)


def test_executors_of_spark_get_beam_alone_and_the_address_by_which_the_master_is_reached(
    repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[portable_job.JvmProgram] = []

    class Runner(PipelineRunner):
        def __init__(self, program: portable_job.JvmProgram, *_: object) -> None:
            made.append(program)

        def run_pipeline(self, pipeline: object, options: object) -> PipelineResult:
            return portable_job._Done()

    monkeypatch.setattr(portable_job, "JvmRunner", Runner)
    with socket.create_server(("127.0.0.1", 0)) as there:
        engine = engine_of("spark", repo, EngineFlags(master=f"spark://127.0.0.1:{there.getsockname()[1]}"), [])
        with engine.pipeline(tmp_path):
            pass
    (program,) = made
    assert "-Dspark.driver.host=127.0.0.1" in program.java
    names = {Path(jar).name.rpartition("-")[0] for jar in program.options["files_to_stage"]}
    assert {"beam-runners-spark-3", "beam-sdks-java-core", "beam-vendor-grpc-1_60_1"} <= names
    assert not [n for n in names if n.startswith(("spark-", "hadoop-", "guava", "gcsio", "slf4j", "log4j"))]


def test_a_worker_is_told_by_its_environment(tmp_path: Path) -> None:
    info = beam_provision_api_pb2.ProvisionInfo(runner_capabilities=["a", "b"])
    info.pipeline_options["beam:option:parallelism:v1"] = 2
    told = environment_of(info, "1-1", "unix:/c", "unix:/l", tmp_path, {"PYTHONPATH": "/before", "HOME": "/h"})
    assert told["PYTHONPATH"].split(":") == [str(tmp_path), str(tmp_path / REPO), "/before"]
    assert told["WORKER_ID"] == "1-1" and told["HOME"] == "/h" and told["RUNNER_CAPABILITIES"] == "a b"
    assert json.loads(told["PIPELINE_OPTIONS"]) == {"beam:option:parallelism:v1": 2.0}
    assert {name: told.get(name) for name in SETTINGS} == SETTINGS, (
        "sums of the bits that the driver's have, though a task manager knows nothing of it"
    )
    assert told["CONTROL_API_SERVICE_DESCRIPTOR"] == 'url: "unix:/c"\n'


@pytest.mark.parametrize(
    ("name", "flags", "why"),
    [
        ("flink", EngineFlags(master="here"), "--master here: use host:port"),
        ("spark", EngineFlags(master="here:1"), "use spark://host:port"),
        ("dataflow", EngineFlags(), "its workers cannot reach a folder of this machine"),
        ("dataflow", EngineFlags(master="here:1"), "--master here:1: Dataflow has no master"),
        ("direct", EngineFlags(parallelism=2), "--runner direct does not take --master or --parallelism"),
    ],
)
def test_what_an_engine_cannot_take_is_one_line(repo: Any, name: str, flags: EngineFlags, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        engine_of(name, repo, flags, [])


@pytest.mark.parametrize(
    ("name", "master", "why"),
    [
        ("flink", "127.0.0.1:{port}", r"--master 127\.0\.0\.1:\d+: no Flink cluster answers there \(.*refused.*\); correct the address"),
        ("spark", "spark://127.0.0.1:{port}", r"--master spark://127\.0\.0\.1:\d+: no Spark master answers there \(.*refused.*\); correct"),
        ("sparks", None, "--runner sparks: Beam has no such runner; write direct, flink, spark or dataflow"),
        ("no.such.Runner", None, r"--runner no\.such\.Runner: Beam has no such runner \(No module named 'no'\); write"),
        ("apache_beam.Sparks", None, r"--runner apache_beam\.Sparks: Beam has no such runner; write"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_read(repo: Any, name: str, master: str | None, why: str) -> None:
    (port,) = free_ports(1)
    engine = engine_of(name, repo, EngineFlags(master=master.format(port=port) if master else None), [])
    with pytest.raises(ConfigError, match=f"^{why}"):
        run_batch(repo, None, datetime.max, now=datetime.max, engine=engine)


def test_a_runner_of_beam_is_there() -> None:
    for name in ("direct", "DirectRunner", "PortableRunner", "flinkrunner"):
        BeamEngine(name).ready()


THREADS = """
import os, sys, threading, time
from pipelines.batch.first_tensorflow import first_tensorflow
from transforms.tensorflow_settings import SETTINGS
begun, wrong = threading.Event(), []

def load(wait):
    while wait and "tensorflow.core.protobuf" not in sys.modules and not begun.wait(0.001):
        pass
    try:
        first_tensorflow()
        from tensorflow.core.protobuf import saved_model_pb2
        import tensorflow as tf
        saved_model_pb2.SavedModel, tf.saved_model.load
    except Exception as error:
        wrong.append(repr(error))
    begun.set()

threads = [threading.Thread(target=load, args=(i > 0,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong, all(os.environ.get(name) == value for name, value in SETTINGS.items()))
"""


def test_threads_of_a_worker_that_need_tensorflow_at_once_have_it_whole_and_as_the_driver_has_it() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", THREADS], env=clean, capture_output=True, text=True, timeout=240)
    assert told.stdout.split() == ["[]", "True"], told.stderr[-3000:]


def test_dataflow_needs_a_project_and_a_region(repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    there = SimpleNamespace(path=repo.path, data=data_path("gs://shop/lake"))
    with pytest.raises(ConfigError, match="needs --project, the id of a Google Cloud project; give it after --"):
        engine_of("dataflow", there, EngineFlags(), [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs --region"):
        engine_of("dataflow", there, EngineFlags(), ["--project=p"])  # type: ignore[arg-type]
    made = engine_of("dataflow", there, EngineFlags(parallelism=9), ["--project=p", "--region=r", "--temp_location=gs://t"])  # type: ignore[arg-type]
    assert made.elsewhere and isinstance(made, DataflowEngine)
    assert made.args[2:] == ["--temp_location=gs://t", "--staging_location=gs://shop/lake/work/dataflow/staging", "--max_num_workers=9"]
    there = SimpleNamespace(path=repo.path, data=data_path("s3://shop/lake"))
    with pytest.raises(ConfigError, match="and data is s3://shop/lake; put the data into Google Cloud Storage"):
        engine_of("dataflow", there, EngineFlags(), ["--project=p", "--region=r"])  # type: ignore[arg-type]


def test_the_wheel_of_a_job_installs_in_an_empty_folder(repo: Any, tmp_path: Path) -> None:
    """Imported by an interpreter that knows the packages that it needs, and nothing of this checkout."""
    (repo.path / "data.csv").write_text("a,b\n")
    wheel = write_wheel(tmp_path, repo.path, repo.data)
    assert write_wheel(tmp_path, repo.path, repo.data) == wheel, "equal code, equal name"
    clean, packages = tmp_path / "clean", [p for p in sys.path if p.endswith("site-packages")]
    with zipfile.ZipFile(wheel) as files:
        files.extractall(clean)
        metadata = next(files.read(n).decode() for n in files.namelist() if n.endswith("METADATA"))
    assert all("==" in line for line in metadata.splitlines() if line.startswith("Requires-Dist"))
    assert any(line.startswith("Requires-Dist: apache-beam") for line in metadata.splitlines())
    program = (
        f"import sys, site; sys.path += {packages!r}; sys.path.insert(0, {str(clean)!r}); site.addsitedir({str(clean)!r})\n"
        "import pipelines.batch.steps, pipelines.lake.file_addresses, tandem, features\n"
        "print(pipelines.__file__, tandem.__file__, features.__file__)"
    )
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd="/", capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(str(clean)) == 3, ran.stdout
