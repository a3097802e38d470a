"""``tandem demo`` with its data on an S3 server: the run, the rows, the graphs and the model that a folder gets, bit for bit."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.object_stores import seaweed
from tests.scale.containers import ROOT
from transforms.definitions import CREATED

RANGE = ("--start", "2013-01-01", "--end", "2013-02-01", "--stream-days", "1")
"""As tests/e2e/test_demo.py: a month, and a day that passes through Kafka."""
URL = "s3://tandem/flights"


def tandem(folder: Path, env: Mapping[str, str], *words: str) -> Any:
    """What a command says as JSON, of the repository in ``folder``."""
    command = [sys.executable, "-W", "ignore", "-m", "pipelines.cli", *words, "--repo", str(folder / "feature_repo"), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def copy(folder: Path) -> Path:
    """A machine with the repository of the demo and nothing else."""
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


Plain = tuple[Path, dict[str, Any]]
Stored = tuple[dict[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """The data folder of a demo, and its summary."""
    folder = copy(tmp_path_factory.mktemp("plain"))
    return folder / "data", tandem(folder, {}, "demo", *RANGE)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """How an object store is reached that has the data of a demo, and its summary."""
    folder = copy(tmp_path_factory.mktemp("stored"))
    with seaweed(folder / "seaweed") as env:
        yield env, tandem(folder, {**env, "TANDEM_CACHE": str(folder / "cache")}, "demo", *RANGE, "--data", URL)


@pytest.fixture(scope="module")
def objects(stored: Stored) -> dict[str, bytes]:
    """What the store has below the demo's prefix, by keys."""
    import obstore
    from obstore.store import S3Store

    env = stored[0]
    bucket, _, prefix = URL.removeprefix("s3://").partition("/")
    store = S3Store(
        bucket, prefix=prefix, endpoint=env["AWS_ENDPOINT_URL"], access_key_id=env["AWS_ACCESS_KEY_ID"],
        secret_access_key=env["AWS_SECRET_ACCESS_KEY"], region=env["AWS_REGION"], client_options={"allow_http": True},
    )  # fmt: skip
    return {each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for page in obstore.list(store) for each in page}


def trees(objects: Mapping[str, bytes], below: str) -> dict[str, bytes]:
    """The files of the published folders below one, by their paths in a data folder: by the lists in the store alone."""
    out = {}
    for key, content in objects.items():
        if key.startswith(f"trees/{below}/"):
            tree = key.removeprefix("trees/").removesuffix(".json")
            for file in json.loads(content)["files"]:
                folder, _, name = f"{tree}/{file['path']}".rpartition("/")
                out[f"{folder}/{name}"] = objects[f"{folder}/{file['sha256'][:16]}-{name}"]
    return out


def files(data: Path, below: str) -> dict[str, bytes]:
    """The files below a folder of a data folder."""
    return {p.relative_to(data).as_posix(): p.read_bytes() for p in sorted((data / below).rglob("*")) if p.is_file()}


def rows(content: bytes) -> bytes:
    """The bits of a file's rows, but for when they were made; as a message of Arrow's."""
    table = pq.ParquetFile(io.BytesIO(content)).read()
    table = table.select([n for n in table.schema.names if n != CREATED]).combine_chunks().replace_schema_metadata(None)
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


def named(found: Mapping[str, bytes], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """By names that are the same for both: the time of the run is in its own."""
    return {name.replace(summary["run"], "RUN"): content for name, content in found.items()}


def different(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[str]:
    """The last names of the files that are not the same; both have all of them."""
    assert one.keys() == other.keys() and len(one) > 3
    return {name.rpartition("/")[2] for name, content in one.items() if content != other[name]}


def test_the_same_run_and_scores(plain: Plain, stored: Stored) -> None:
    assert stored[1]["run"].rpartition("-")[2] == plain[1]["run"].rpartition("-")[2], "what a run is of"
    for name in ("events", "rejected", "rows", "version", "scores"):
        assert stored[1][name] == plain[1][name], name


def test_the_same_rows_bit_for_bit(plain: Plain, stored: Stored, objects: Mapping[str, bytes]) -> None:
    there, here = named(trees(objects, "offline"), stored[1]), named(files(plain[0], "offline"), plain[1])
    assert there.keys() == here.keys()
    parts = [name for name in there if name.endswith(".parquet")]
    assert len(parts) > 30 and [name for name in parts if rows(there[name]) != rows(here[name])] == []


def test_the_same_graphs_training_set_and_weights(plain: Plain, objects: Mapping[str, bytes]) -> None:
    """TensorFlow writes a graph's nodes in an order that changes from run to run: the weights and the graph's own hash tell."""
    graphs, models = trees(objects, "graphs"), trees(objects, "models")
    here = {n: c for n, c in files(plain[0], "graphs").items() if n in graphs}
    assert different(graphs, here) <= {"saved_model.pb", "fingerprint.pb", "tandem.json"}
    assert different(trees(objects, "training"), files(plain[0], "training")) == {"manifest.json"}
    here = {n: c for n, c in files(plain[0], "models").items() if n in models}
    assert different(models, here) <= {"saved_model.pb", "fingerprint.pb", "tandem.json"}
    assert any("/variables/" in name for name in models)


def test_the_stream_agrees_with_batch(plain: Plain, stored: Stored) -> None:
    for _, summary in (plain, stored):
        parity = summary["live"]["parity"]
        assert parity["unexplained"] == 0 and parity["problems"] == [] and parity["values"]["compared"] > 10_000
    assert stored[1]["live"]["stream"]["events"] == plain[1]["live"]["stream"]["events"]


def test_another_machine_has_it_all(stored: Stored, tmp_path: Path) -> None:
    env = {**stored[0], "TANDEM_CACHE": str(tmp_path / "cache")}
    (model,) = tandem(copy(tmp_path), env, "models", "--data", URL)["models"]
    assert [v["aliases"] for v in model["versions"]] == [["champion"]]
