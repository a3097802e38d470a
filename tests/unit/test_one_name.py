"""``tandem.*`` and the three packages are the same modules, wherever they are imported from and whatever else has their names."""

import subprocess
import sys
from pathlib import Path

import pytest

from transforms.own_program import module_command, tandem_command

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("first", ["tandem.transforms.definitions", "transforms.definitions"])
def test_a_class_is_one_class_under_both_names(first, tmp_path):
    done = run(
        f"import {first}; import tandem.transforms.definitions as a, transforms.definitions as b, importlib; "
        "assert a is b and a.Count is b.Count; assert a.__spec__.name == 'transforms.definitions' == a.__name__; "
        "import tandem.serving.request_errors; from tandem.pipelines.project import config; import pipelines.project.config as c; "
        "assert config is c; "
        "importlib.reload(a); print('same')",
        tmp_path,
    )
    assert done.stdout == "same\n", done.stderr


def test_somebodys_modules_of_our_names_are_not_ours(tmp_path):
    for name in ("transforms", "pipelines", "serving"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    done = run(
        "import tandem, transforms.definitions, serving.request_errors; from pipelines.project import config; print('ours')", tmp_path
    )
    assert done.stdout == "ours\n", done.stderr


BEFORE = {
    "pipelines.config": "pipelines.project.config",
    "pipelines.event_files": "pipelines.sources.event_files",
    "pipelines.offline_store": "serving.offline_store",
    "pipelines.repo": "pipelines.project.repository",
}


@pytest.mark.parametrize(
    ("prefix", "names"), [("", {**BEFORE, "pipelines.training.job": "pipelines.training.training_job"}), ("tandem.", BEFORE)]
)
def test_a_name_of_before_works_and_says_the_one_of_now(tmp_path, prefix, names):
    code = [f"import {prefix}{before} as before, {now} as now; print(before is now)" for before, now in names.items()]
    done = run("\n".join(code), tmp_path)
    assert done.stdout.split() == ["True"] * len(names), done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("tandem: ")]
    assert said == [f"tandem: {before} is {now} now; change it in your feature repository" for before, now in names.items()]


def test_an_unknown_module_is_an_import_error(tmp_path):
    done = run("import tandem.transforms.nothing", tmp_path)
    assert (
        "ModuleNotFoundError: No module named 'tandem.transforms.nothing'" in done.stderr
        or "No module named 'transforms.nothing'" in done.stderr
    )


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("tandem.serving", "ServingSettings"),  # it misses what a server needs
        ("tandem.pipelines.cli", "COMMAND [ARGS]"),
        ("tandem.pipelines.services.jars", "jars---help.sha256"),
        ("tandem.pipelines.lake", "No module named tandem.pipelines.lake.__main__"),
    ],
)
def test_python_runs_a_module_by_its_second_name(tmp_path, module, said):
    done = subprocess.run([sys.executable, "-P", "-m", module, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert said in done.stdout + done.stderr


def test_a_module_is_no_package_by_its_second_name(tmp_path):
    done = run(
        "import tandem.transforms.definitions as d, tandem.transforms as t; print(hasattr(d, '__path__'), len(t.__path__))", tmp_path
    )
    assert done.stdout == "False 1\n", done.stderr


@pytest.mark.parametrize("theirs", ["tandem.py", "tandem/__init__.py"])
def test_a_folder_with_a_tandem_of_its_own(tmp_path, theirs):
    """FAULTS 32: ``python -m tandem`` there is theirs, by Python's own rule; the command, our children, ``-P -m`` are ours."""
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("raise SystemExit('theirs')")
    for words in ([sys.executable, "-P", "-m", "tandem"], tandem_command(), module_command("pipelines.cli")):
        done = subprocess.run([*words, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert "Feature engineering with batch" in done.stdout, done.stderr
