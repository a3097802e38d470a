"""What is left out at import: Feast's instrumented sources, notebooks' IPython, the packages' metadata; and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEAST = """
import sys
{settle}
import feast, typeguard
from importlib import metadata
print(len([n for n, f in vars(feast.FeatureView).items() if "TypeCheckMemo" in str(getattr(getattr(f, "__code__", f), "co_consts", ""))]))
@typeguard.typechecked
def half(n: int) -> float:
    return n / 2
for work in (lambda: half("two"), lambda: feast.FeatureService(name=5, features=[]), lambda: feast.Entity(name="a", join_keys="ab")):
    try:
        work()
    except typeguard.TypeCheckError:
        print("checked")
print(len(metadata.packages_distributions()) > 10)
"""
SERVERS = """
import sys
{settle}
import feast, feast.feature_store as store, feast.errors
servers = "fastapi", "sqlalchemy", "feast.feature_server", "feast.ui_server", "fastapi.concurrency"
print(*(name in sys.modules for name in servers))
print(feast.errors.FeastError().http_status_code())
import asyncio
print(asyncio.run(store.run_in_threadpool(abs, -3)))
import feast.feature_server, feast.ui_server
print(store.feature_server.start_server is feast.feature_server.start_server)
print(store.ui_server.start_server is feast.ui_server.start_server)
import fastapi.concurrency
from fastapi import FastAPI, status
print(fastapi.concurrency.run_in_threadpool is store.run_in_threadpool, feast.errors.HttpStatusCode is status)
settings = feast.RepoConfig(
    project="p", provider="local", registry=dict(registry_type="sql", path="sqlite:///registry.db"), online_store=None,
    entity_key_serialization_version=3,
)
found = feast.FeatureStore(config=settings)
from feast.infra.registry.sql import SqlRegistry
print(isinstance(found.registry, SqlRegistry), found.list_entities())
print({{type(module).__name__ for module in sys.modules.values()}} & {{"_Later"}} or "none")
"""
BEAM = """
import sys
{settle}
import apache_beam.io
print("IPython" in sys.modules)
from tqdm.auto import tqdm
print(sum(tqdm([1], disable=True)))
"""
SETTLE = "from tandem.quick_imports import quicken_imports; quicken_imports(); quicken_imports()"


def run(folder: Path, code: str) -> list[str]:
    (file := folder / "probe.py").write_text(code)  # a file: typeguard reads the source of what it checks
    done = subprocess.run(
        [sys.executable, "-W", "ignore", file],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_feast_checks_what_people_write_and_their_own_code_is_checked_as_before(tmp_path: Path) -> None:
    many, *checks = run(tmp_path, FEAST.format(settle=""))
    few, *same = run(tmp_path, FEAST.format(settle=SETTLE))
    assert same == checks == ["checked", "checked", "checked", "True"]
    assert int(few) <= 1 < int(many)


def test_feast_comes_without_its_servers_which_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    loaded = run(tmp_path, SERVERS.format(settle=""))
    (tmp_path / "registry.db").unlink()
    now = run(tmp_path, SERVERS.format(settle=SETTLE))
    assert loaded[:5] == ["True"] * 5
    assert now[:5] == ["False"] * 5
    assert now[5:] == loaded[5:] == ["500", "3", "True", "True", "True", "True", "True", "[]", "none"]


STANDING = """
import sys, threading
sys.path.insert(0, {folder!r})
{settle}
from tandem import quick_imports
quick_imports._STANDING_IN = {{"feast": {{"server": {{}}, "away": {{"gone": "no_such_module"}}, "there": {{}}}}}}
import there
import feast
print(feast.early, feast.late(), feast.caught, feast.there is there, "server" in sys.modules)
"""


def test_what_stands_in_gives_way_to_whoever_needs_the_module_meanwhile(tmp_path: Path) -> None:
    """Also another thread; and what was imported before, or is not there as expected, is what it is."""
    code = """
import sys, threading
import server, away, there
kept = server
def asks():
    import server.parts, server.more
    from server import start
    found.append(start() + server.parts.executed + server.more.mark)
found = []
if {threads}:
    thread = threading.Thread(target=asks)
    thread.start()
    thread.join()
early = found
def late():
    return kept.start()
try:
    server.nothing
    caught = "no"
except AttributeError:
    caught = "yes"
"""
    for threads in (True, False):
        folder = tmp_path / f"found-{threads}"
        (folder / "feast").mkdir(parents=True)
        (folder / "feast" / "__init__.py").write_text(code.replace("{threads}", str(threads)))
        (folder / "server").mkdir()
        (folder / "server" / "__init__.py").write_text("from server import parts\ndef start():\n    return 'up'")
        (folder / "server" / "parts.py").write_text("import sys\nsys.parts = getattr(sys, 'parts', '') + '1'\nexecuted = sys.parts")
        (folder / "server" / "more.py").write_text("mark = '!'")
        for name in ("away", "there"):
            (folder / f"{name}.py").write_text("")
        found = run(tmp_path, STANDING.format(folder=str(folder), settle=SETTLE))
        assert found == [*(["['up1!']"] if threads else ["[]"]), "up", "yes", "True", "True"]


def test_beam_comes_without_notebooks(tmp_path: Path) -> None:
    assert run(tmp_path, BEAM.format(settle=SETTLE)) == ["False", "1"]


def assert_most_are_away(loaded: list[str], now: list[str]) -> None:
    """All but one at least of what was loaded: which one another release of another package imports too is not ours."""
    assert loaded.count("True") >= len(loaded) - 1
    assert now.count("True") <= 1


CLIENTS = """
import sys
{settle}
import apache_beam as beam, apache_beam.io
from apache_beam.io.filesystems import FileSystems
clients = "google.cloud.bigquery", "google.cloud.pubsub", "google.cloud.storage", "pymongo", "apitools", "apache_beam.runners.dataflow"
print(*(name in sys.modules for name in clients))
print(hasattr(beam.io, "nothing"), hasattr(beam.io.gcp, "nothing"))
print(beam.io.gcp.pubsub.__name__, beam.runners.dataflow.DataflowRunner.__name__, beam.io.mongodbio.__name__)
from apache_beam.io import ReadFromBigQuery, fileio
from apache_beam.io.gcp import bigquery, pubsub
print(ReadFromBigQuery is bigquery.ReadFromBigQuery, beam.io.WriteToPubSub is pubsub.WriteToPubSub, beam.io.BigQueryDisposition.WRITE_EMPTY)
from apache_beam.io.mongodbio import ReadFromMongoDB
print(beam.io.ReadFromMongoDB is ReadFromMongoDB, fileio.MatchFiles.__name__, beam.io.gcsio.GcsIO.__name__)
print(type(FileSystems.get_filesystem("gs://bucket/file")).__name__, FileSystems.join("/a", "b"), FileSystems.exists("/nowhere/gs"))
from apache_beam.runners import DataflowRunner, create_runner
from apache_beam.utils import retry
import apache_beam.runners.dataflow.dataflow_runner as dataflow
print(isinstance(create_runner("DataflowRunner"), DataflowRunner), isinstance(DataflowRunner(), dataflow.DataflowRunner))
print(issubclass(type("Mine", (dataflow.DataflowRunner,), {{}}), DataflowRunner))
from apitools.base.py.exceptions import HttpError
broken = HttpError({{"status": 503}}, b"", "http://here")
print(retry.retry_on_server_errors_filter(broken), retry.retry_on_server_errors_filter(HttpError({{"status": 400}}, b"", "http://here")))
print({{type(module).__name__ for module in sys.modules.values()}} & {{"_Later"}} or "none")
"""


def test_beam_comes_without_clients_of_clouds_and_databases_which_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    loaded = run(tmp_path, CLIENTS.format(settle=""))
    now = run(tmp_path, CLIENTS.format(settle=SETTLE))
    assert_most_are_away(loaded[:6], now[:6])
    assert now[6:] == loaded[6:]
    assert now[6:8] == ["False", "False"] and now[11:14] == ["True", "True", "WRITE_EMPTY"]
    assert now[17:] == ["GCSFileSystem", "/a/b", "False", "True", "True", "True", "True", "False", "none"]


TENSORFLOW = """
import sys
{settle}
import tensorflow as tf, tf_keras, tensorflow_transform as tft
away = "googleapiclient.discovery", "h5py", "scipy.sparse", "requests", "pydot", "tensorflow.python.framework.test_util"
print(*(name in sys.modules for name in away))
from tensorflow.python.framework.test_util import TensorFlowTestCase
print(tf.test.TestCase is TensorFlowTestCase, tf.compat.v1.test.TestCase is TensorFlowTestCase, tf.compat.v2.test.Benchmark.__name__)
print(callable(tf.__internal__.test.combinations.generate), tf.__internal__.distribute.combinations.env().__class__.__name__)
print(tf.__internal__.distribute.multi_process_runner.run.__name__, callable(tf.compat.v2.__internal__.test.combinations.times))
import setuptools, distutils.version, pydot
print(distutils.version.LooseVersion.__name__)
from tensorflow_transform import nodes
print(nodes.get_dot_graph([]).__class__ is pydot.Dot)
print(tf.compat.v1.compat.as_text(b"a"), tf.compat.v1.compat.v1.compat.as_text(b"b"), tf.compat.v2.compat.v1.app is not None)
from tensorflow.compat import v1
print(v1.compat.as_bytes("c"))
try:
    tf.distribute.cluster_resolver.GCEClusterResolver("p", "z", "g", 1, credentials=None)
except Exception as error:
    print(type(error).__module__.partition(".")[0])
import numpy as np, scipy.sparse
model = tf_keras.Sequential([tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
model(np.ones([1, 2], np.float32))
model.save_weights("weights.h5")
model.load_weights("weights.h5")
model.compile(loss="mse")
print(model.predict(scipy.sparse.csr_matrix(np.eye(2, dtype=np.float32)).toarray(), verbose=0).tolist())
print(tf_keras.preprocessing.image.apply_affine_transform(np.eye(3)[..., None], theta=90).shape, tf_keras.utils.plot_model is not None)
import requests.adapters, requests
from tf_keras.src import callbacks
print(callbacks.requests.get is requests.get, requests.adapters.HTTPAdapter.__name__)
print({{type(module).__name__ for module in sys.modules.values()}} & {{"_Later"}} or "none")
"""


def test_tensorflow_comes_without_what_few_programs_use_which_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    loaded = run(tmp_path, TENSORFLOW.format(settle=""))
    now = run(tmp_path, TENSORFLOW.format(settle=SETTLE))
    assert_most_are_away(loaded[:6], now[:6])
    assert now[6:] == loaded[6:]


TFX = """
import sys
{settle}
import tensorflow as tf
from tfx import components
from tfx.orchestration.local import local_dag_runner
import tensorflow_model_analysis as tfma
parts = "keras_tuner", "kubernetes", "docker", "nltk", "ipywidgets", "scipy.stats", "tfx.components.tuner"
print(*(name in sys.modules for name in parts))
from tensorflow_model_analysis.utils import math_util
print(math_util.stats.norm.cdf(0), tfma.view.render_plot.__name__, tfma.notebook.visualization.PlotViewer.class_traits is not None)
from tfx.orchestration.portable import docker_executor_operator, launcher
print([issubclass(docker_executor_operator.DockerExecutorOperator, each) for each in launcher.DEFAULT_EXECUTOR_OPERATORS.values()])
from tfx.components.tuner import component
print(components.Tuner.SPEC_CLASS.__name__)
print(components.InfraValidator.SPEC_CLASS.__name__, components.BulkInferrer.SPEC_CLASS.__name__)
print(issubclass(component.Tuner, components.Tuner))
from tensorflow_model_analysis.metrics import rouge
print(rouge.nltk.__name__, {{type(module).__name__ for module in sys.modules.values()}} & {{"_Later"}} or "none")
"""


def test_tfx_comes_without_tuners_containers_and_notebooks_which_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    if find_spec("tfx") is None:
        pytest.skip("no TFX")
    loaded = run(tmp_path, TFX.format(settle=""))
    now = run(tmp_path, TFX.format(settle=SETTLE))
    assert_most_are_away(loaded[:7], now[:7])
    assert now[7:] == loaded[7:]


COLLECTOR = """
import gc, sys
sys.path.insert(0, {folder!r})
{settle}
before = gc.isenabled()
import pandas
print(pandas.during, pandas.__file__.endswith("__init__.py"), before, gc.isenabled(), gc.get_freeze_count() > 1000)
gc.disable()
try:
    import feast
except ValueError:
    print(gc.isenabled())
gc.enable()
try:
    import tensorflow
except ValueError:
    print(gc.isenabled())
import wide
print(wide.during)
"""


def test_no_collection_while_a_large_package_is_imported_and_as_before_afterwards(tmp_path: Path) -> None:
    for name, text in {
        "pandas": "import gc, pandas.core\nduring = (gc.isenabled(), pandas.core.during)",
        "feast": "raise ValueError",
        "tensorflow": "raise ValueError",
        "wide": "import gc\nduring = gc.isenabled()",
    }.items():
        (tmp_path / "found" / name).mkdir(parents=True)
        (tmp_path / "found" / name / "__init__.py").write_text(text)
    (tmp_path / "found" / "pandas" / "core.py").write_text("import gc\nduring = gc.isenabled()")
    found = run(tmp_path, COLLECTOR.format(folder=str(tmp_path / "found"), settle=SETTLE))
    assert found == ["(False,", "False)", "True", "True", "True", "True", "False", "True", "True"]


def test_every_process_of_ours_begins_with_it(tmp_path: Path) -> None:
    """The command and the modules that its children run; both through one file."""
    code = "import typeguard; print(hasattr(typeguard.typechecked, 'quick'))"
    (tmp_path / "quick_probe.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "tandem" / "__main__.py"), "-m", "quick_probe"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True"]


WARNS = """
import sys, warnings
{settle}
import feast
from feast.value_type import ValueType
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for name in "ab":
        feast.Entity(name=name, value_type=ValueType.STRING)  # twice: the first compiles the check
        feast.Entity(name=name)
print(*(f"{{w.filename.rpartition('/')[2]}}:{{w.lineno}}" for w in found))
"""


def test_warnings_of_feast_name_the_line_of_who_called(tmp_path: Path) -> None:
    """They named one of ours."""
    as_is, ours = run(tmp_path, WARNS.format(settle="")), run(tmp_path, WARNS.format(settle=SETTLE))
    assert as_is == ours and as_is and all(place.startswith("probe.py:") for place in ours)
