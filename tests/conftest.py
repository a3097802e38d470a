"""What all tests share: a quiet, CPU-only process that asks nobody on the network who it is."""

import gc
import importlib
import logging
import os
import signal
import sys
import uuid
import warnings
from collections.abc import Generator
from pathlib import Path

import prometheus_client  # noqa: F401  # before a test imports Feast, as serving.app has it: else two servers of one process count together
import pytest

from tandem.quick_imports import quicken_imports
from tests import examples  # noqa: F401  # how often properties are tried
from tests.made_once import made_once
from tests.object_stores import seaweed
from tests.outside import install
from transforms import source_imports
from transforms.tensorflow_settings import settle_tensorflow

collect_ignore = ["outside_package"]  # the tests of a package that is not installed here
pytest_plugins = ["tests.prove.reporting"]

# As every process of Tandem's own begins: what a program of somebody else's imports is tested in processes (test_quick_imports.py).
quicken_imports()
# Before any test module imports TensorFlow (its C++ side reads these once), and inherited by child processes.
settle_tensorflow()
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("GLOG_minloglevel", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("NO_GCE_CHECK", "true")
# Tests of tracking ask for it by name: elsewhere a process per run that loads MLflow only costs time.
os.environ["TANDEM_CHECK_CACHE"] = ""  # what was right for an earlier test or run is asked again
os.environ.setdefault("TANDEM_TRACKING__TRACKERS", "[]")
# Google's client libraries announce the end of Python versions as FutureWarning, outside any test.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"google(\.|$)")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # What a shell starts in the background ignores interrupts, and so would the commands that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=int, default=2, help="how many trials of each kind tests/prove makes (make prove: 20)")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Importing every test and what it tests makes a million objects that stay: the collector looks at them once, not on each round. And it
    looks at what tests make less often than Python has it, which took a tenth of their time.

    What pytest makes of the asserts is kept for the next run, whatever PYTHONDONTWRITEBYTECODE says: to make it anew is a third of what
    collecting takes, in each process."""
    gc.disable()
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = writes_none
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes take whole files in this order: those that take long come first, so that none is left alone with one."""
    if hasattr(config, "workerinput"):
        order = ("prove", "e2e", "integration")
        items.sort(key=lambda item: next((n for n, folder in enumerate(order) if folder in item.path.parts), len(order)))


@pytest.fixture(autouse=True)
def umask() -> Generator[None, None, None]:
    """Of the process: a test that leaves another one makes files that others' servers, which run as nobody, cannot read."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    after = os.umask(before)
    assert after == before, f"the test leaves the umask {after:03o}, it was {before:03o}"


def without_new_repositories() -> Generator[None, None, None]:
    """Each repository that is loaded comes first on ``sys.path``, and stays: of some hundred each import and look-up asks all."""
    before = set(sys.path)
    yield
    loaded = set(map(str, source_imports._folders))
    sys.path[:] = [p for p in sys.path if p in before or p not in loaded]


of_a_test = pytest.fixture(autouse=True)(without_new_repositories)
of_a_module = pytest.fixture(autouse=True, scope="module")(without_new_repositories)


@pytest.fixture(autouse=True)
def log_level() -> None:
    """Of the process: a command that a test runs in it makes the root logger quiet, and the next test would see no warnings."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def outside_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tandem_outside`` can be imported, and its entry points can be found; the folder that it is installed in."""
    site = made_once(tmp_path_factory, "outside", install)
    sys.path.append(str(site))
    importlib.invalidate_caches()
    return site


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str], None, None]:
    """The environment by which AWS's tools find an S3 server of this machine."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as env:
        yield env


@pytest.fixture
def s3_here(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """This process finds that server; a URL below which there is nothing."""
    from serving.object_store.connecting import connect

    connect.cache_clear()
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return f"s3://tandem/{uuid.uuid4().hex}"
