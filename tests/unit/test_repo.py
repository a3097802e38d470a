"""Feature repositories are loaded by path, side by side, and their mistakes are one line with file and line."""

import importlib
import importlib.resources
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from pipelines.project.repository import load_module, load_repo
from transforms.errors import ConfigError, DefinitionError
from transforms.source_imports import _is_code_of

ROOT = Path(__file__).resolve().parents[2]
FEATURES = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes
from words import WORD

parcels = EventSource(
    name="parcels", fields=[Field("depot", "string", required=True)], event_time="at", tie_breaker="depot", files="events/parcels"
)
load = FeatureGroup(
    name="load", source=parcels, entity=Entity("depot"), hop=minutes(5), ttl=hours(2), aggregates=[Count(over=hours(1))],
    preprocessing_fn="words:fn", description=WORD,
)
"""


def make(folder: Path, word: str = "one", features: str = FEATURES) -> Path:
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text("project: x\n")
    (folder / "features.py").write_text(features)
    (folder / "words.py").write_text(f"WORD = {word!r}\n\ndef fn(inputs):\n    return WORD\n")
    return folder


def test_sources_groups_and_functions_are_found(tmp_path):
    repo = load_repo(make(tmp_path / "a"))
    assert list(repo.groups) == ["load"] and list(repo.sources) == ["parcels"]
    assert repo.data == tmp_path / "data"
    function = repo.preprocessing_fn(repo.groups["load"])
    assert function and function({}) == "one"


def test_repositories_with_the_same_module_names_do_not_mix(tmp_path):
    first, second = make(tmp_path / "a", "one"), make(tmp_path / "b", "two")
    for path, word in ((first, "one"), (second, "two"), (first, "one")):
        repo = load_repo(path)
        group = repo.groups["load"]
        assert group.description == word
        function = repo.preprocessing_fn(group)
        assert function and function({}) == word


def test_packages_of_repositories_do_not_mix_either(tmp_path):
    """All that is in one gives way; a package of the same name that is no repository's stays."""
    for word in ("one", "two"):
        package = tmp_path / word / "shapes"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "sides.py").write_text(f"WORD = {word!r}\n")
        (package / f"of_{word}.py").write_text("")
        (tmp_path / word / "features.py").write_text(f"import shapes.of_{word}\nfrom shapes.sides import WORD\n")
        (tmp_path / word / "tests").mkdir()
        (tmp_path / word / "tests" / "__init__.py").write_text("")
    ours = sys.modules["tests"]
    for word in ("one", "two", "one"):
        assert word == load_module(tmp_path / word, "features").WORD
        assert {m for m in sys.modules if m.startswith("shapes")} == {"shapes", "shapes.sides", f"shapes.of_{word}"}
    sides = sys.modules["shapes.sides"]
    assert load_module(tmp_path / "one", "shapes.sides") is sides, "its own is not loaded anew"
    assert sys.modules["tests"] is ours


def test_packages_without_an_init_do_not_mix_either(tmp_path):
    """Folders of modules are packages, too, also within others; beside one of the same name that has an ``__init__.py``."""
    for word in ("one", "two"):
        for package in ("flat", "deep/er", "with_init"):
            (tmp_path / word / package).mkdir(parents=True)
            (tmp_path / word / package / "sides.py").write_text(f"WORD = {word!r}\n")
        (tmp_path / word / "with_init" / "__init__.py").write_text("")
        (tmp_path / word / "features.py").write_text(
            "import flat.sides, deep.er.sides, with_init.sides\nWORDS = {flat.sides.WORD, deep.er.sides.WORD, with_init.sides.WORD}\n"
        )
    for word in ("one", "two", "one"):
        assert {word} == load_module(tmp_path / word, "features").WORDS
    sides = sys.modules["flat.sides"]
    assert load_module(tmp_path / "one", "flat.sides") is sides, "its own is not loaded anew"


FORMS = {
    "a module": ("helpers.py", "helpers"),
    "a package": ("helpers/__init__.py", "helpers.sides"),
    "a folder": ("helpers/sides.py", "helpers.sides"),
    "a folder in one": ("helpers/deep/sides.py", "helpers.deep.sides"),
}
"""What a repository may have under a name: a file of it, and the module that holds its word."""


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_a_name_that_is_another_thing_in_another_repository_does_not_mix(tmp_path, first, second):
    """A folder without an ``__init__.py`` gave way to another repository's package or module of its name, or was merged with its folder."""
    for word, form in (("one", first), ("two", second)):
        file, module = FORMS[form]
        here = tmp_path / word
        (here / file).parent.mkdir(parents=True)
        (here / file).write_text("")
        (here / f"{module.replace('.', '/')}.py").write_text(f"WORD = {word!r}\n")
        if (here / "helpers").is_dir():
            (here / "helpers" / f"only_{word}.py").write_text("")
        (here / "features.py").write_text(f"import helpers\nfrom {module} import WORD\n")
    for word, other in (("one", "two"), ("two", "one"), ("one", "two")):
        assert word == load_module(tmp_path / word, "features").WORD
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"helpers.only_{other}")


@pytest.mark.parametrize("file", ["a/b/c/d/{}.py", "a/b/c/{}" + EXTENSION_SUFFIXES[0], "{}" + EXTENSION_SUFFIXES[-1], "linked/{}.py"])
def test_folders_with_code_at_any_depth_or_of_any_kind_do_not_mix(tmp_path, file):
    """It was looked for two folders deep, and only as ``.py``: the folders of both repositories were one package."""
    for word in ("one", "two"):
        code = tmp_path / word / "helpers" / file.format(f"only_{word}")
        if file.startswith("linked"):
            code = tmp_path / f"shared_{word}" / f"only_{word}.py"
            (tmp_path / word / "helpers").mkdir(parents=True)
            (tmp_path / word / "helpers" / "linked").symlink_to(code.parent)
        code.parent.mkdir(parents=True)
        code.write_bytes(b"")
        (code.parent / "again").symlink_to(tmp_path / word / "helpers")  # a circle
        (tmp_path / word / "features.py").write_text("import helpers\nPARTS = list(helpers.__path__)\n")
    for word in ("one", "two", "one"):
        assert [str(tmp_path / word / "helpers")] == load_module(tmp_path / word, "features").PARTS


def test_folders_of_data_are_not_listed_unless_two_repositories_have_them(tmp_path, monkeypatch):
    """They may hold a million files."""
    listed, scandir = [], os.scandir

    def noted(path):
        listed.append(Path(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    for word, folder in (("one", "only_here"), ("two", "kept_by_both"), ("three", "kept_by_both")):
        for inner in ("date=2024-05-01", "__pycache__", "day"):
            (tmp_path / word / folder / inner).mkdir(parents=True)
            (tmp_path / word / folder / inner / "x.parquet").write_text("")
        (tmp_path / word / "features.py").write_text(f"import {folder}\n")
    seen = {}
    for word in ("one", "two", "three"):
        listed.clear()
        load_module(tmp_path / word, "features")
        seen[word] = [str(path.relative_to(tmp_path)) for path in listed if path.is_relative_to(tmp_path) and path.parent != tmp_path]
    both = [f"{word}/kept_by_both{inner}" for word in ("three", "two") for inner in ("", "/day")]
    assert seen == {"one": [], "two": [], "three": both}


def test_a_folder_that_nothing_was_imported_from_gives_way_too(tmp_path):
    (tmp_path / "one" / "helpers").mkdir(parents=True)
    (tmp_path / "one" / "helpers" / "of_one.py").write_text("")
    (tmp_path / "one" / "features.py").write_text("import helpers\nWORD = 'one'\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "helpers.py").write_text("WORD = 'two'\n")
    (tmp_path / "two" / "features.py").write_text("from helpers import WORD\n")
    for word in ("one", "two", "one"):
        assert word == load_module(tmp_path / word, "features").WORD


def test_a_folder_of_data_is_in_the_way_of_no_package(tmp_path):
    """A function of a repository that was loaded before imports from its package, which another one keeps its data under the name of."""
    (tmp_path / "one" / "kept").mkdir(parents=True)
    (tmp_path / "one" / "kept" / "__init__.py").write_text("WORD = 'one'\n")
    (tmp_path / "one" / "features.py").write_text("def later():\n    from kept import WORD\n    return WORD\n")
    (tmp_path / "two" / "kept" / "events").mkdir(parents=True)
    (tmp_path / "two" / "kept" / "events" / "all.jsonl").write_text("")
    (tmp_path / "two" / "features.py").write_text("")
    later = load_module(tmp_path / "one", "features").later
    load_module(tmp_path / "two", "features")
    assert later() == "one"


def test_a_folder_goes_on_being_a_part_of_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "site" / "spread").mkdir(parents=True)
    (tmp_path / "site" / "spread" / "theirs.py").write_text("WORD = 'theirs'\n")
    (tmp_path / "repo" / "spread").mkdir(parents=True)
    (tmp_path / "repo" / "spread" / "ours.py").write_text("WORD = 'ours'\n")
    (tmp_path / "repo" / "spread" / "table.txt").write_text("kept")
    (tmp_path / "repo" / "features.py").write_text("from spread import ours, theirs\nWORDS = ours.WORD, theirs.WORD\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert load_module(tmp_path / "repo", "features").WORDS == ("ours", "theirs")
    assert importlib.resources.files("spread").joinpath("table.txt").read_text() == "kept"


def test_functions_of_a_repository_import_what_they_need_later(tmp_path):
    """Also when all of its modules gave way to another's."""
    late = []
    for word in ("one", "two", "three"):
        repo = make(tmp_path / word, word)
        (repo / "features.py").write_text(f"def later():\n    from late_{word} import WORD\n    return WORD\n")
        (repo / f"late_{word}.py").write_text(f"WORD = {word!r}\n")
        late.append(load_module(repo, "features").later)
    assert sys.path[0] == str(tmp_path / "three")
    assert [later() for later in late] == ["one", "two", "three"]


def test_a_module_of_one_of_our_names_is_not_taken_for_ours(tmp_path):
    """FAULTS 32: also `tandem.py`, from which a repository imports everything; and no package of ours is loaded a second time."""
    import serving
    import tandem

    path = make(tmp_path / "a", features=FEATURES.replace("from transforms", "from tandem.transforms"))
    for name in ("tandem", "serving", "pipelines", "transforms"):
        (path / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    assert load_repo(path).groups["load"].description == "one"
    assert sys.modules["tandem"] is tandem and sys.modules["serving"] is serving


def test_a_module_that_stands_before_one_of_pythons_is_told(tmp_path, capsys):
    """FAULTS 32: a `profile.py` of the user's was what the profiler imported, deep in a library, in the middle of a batch run."""
    path = make(tmp_path / "a")
    for name in ("profile", "calendar", "pandas", "holidays_of_ours", "serving", "tandem"):
        (path / f"{name}.py").write_text("")
    for _ in range(2):
        load_repo(path)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" has the name of a module that is installed (")[0] for line in told] == [
        "tandem: a/calendar.py", "tandem: a/pandas.py", "tandem: a/profile.py",
    ]  # fmt: skip
    load_repo(make(tmp_path / "b"))
    assert capsys.readouterr().err == ""


def test_what_a_file_says_now_is_run(tmp_path):
    """An edit of the same length at the same time of change: Python's own bytecode of before would be believed."""
    repo = tmp_path / "repo"
    (repo / "shapes").mkdir(parents=True)
    (repo / "shapes" / "__init__.py").write_text("")
    files = [repo / "features.py", repo / "shapes" / "sides.py"]

    def write(value: str) -> None:
        for file in files:
            file.write_text(f"value = {value}\n")
            os.utime(file, (1_700_000_000, 1_700_000_000))

    write("1")
    subprocess.run([sys.executable, "-c", "import features, shapes.sides"], cwd=repo, check=True, env={"PATH": os.environ["PATH"]})
    assert list(repo.glob("__pycache__/features.*")) and list(repo.glob("shapes/__pycache__/sides.*"))
    for value in ("2", "3"):
        write(value)
        for module in ("features", "shapes", "shapes.sides"):
            sys.modules.pop(module, None)
        assert load_module(repo, "features").value == load_module(repo, "shapes.sides").value == int(value)


def test_an_environment_within_a_repository_is_none_of_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.source_imports.LIBRARIES", {str(tmp_path / ".venv" / "lib"), "/usr/lib/python3"})
    assert _is_code_of(tmp_path / "shapes", tmp_path) and _is_code_of(tmp_path, tmp_path)
    assert not _is_code_of(tmp_path / ".venv" / "lib" / "numpy", tmp_path) and not _is_code_of(tmp_path.parent, tmp_path)


@pytest.mark.parametrize("left", ["nothing", "no feature_store.yaml"])
def test_a_repository_that_is_gone_leaves_no_module_behind(tmp_path, left):
    first = make(tmp_path / "a", "one")
    load_repo(first)
    if left == "nothing":
        shutil.rmtree(first)
    else:
        (first / "feature_store.yaml").unlink()
    assert load_repo(make(tmp_path / "b", "two")).groups["load"].description == "two"


def test_the_same_object_under_two_names_is_one_definition(tmp_path):
    assert list(load_repo(make(tmp_path / "a", features=FEATURES + "again = load\nGROUPS = [load]\n")).groups) == ["load"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("x = 1\n", r"a/features\.py defines no FeatureGroup; see 'tandem init' for an example"),
        ("\n\nx = 1 / 0\n", r"a/features\.py, line 3: ZeroDivisionError: division by zero"),
        ("x = = 1\n", r"a/features\.py, line 1: SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found\n", r"a/features\.py needs the module 'nowhere_to_be_found', which is not installed"),
        (
            FEATURES + "other = parcels.__class__(name='parcels', fields=parcels.fields, event_time='t', tie_breaker='depot')\n",
            "called 'parcels'",
        ),
        (FEATURES.replace("hop=minutes(5)", "hop=5"), r"feature group 'load': hop 5 is no duration"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, features, message):
    with pytest.raises(DefinitionError, match=message) as e:
        load_repo(make(tmp_path / "a", features=features))
    assert "\n" not in str(e.value)


def test_a_mistake_in_another_module_of_the_repository_names_that_one(tmp_path):
    path = make(tmp_path / "a")
    for text, message in (("\n\nWORD = [][1]\n", "line 3: IndexError: list index out of range"), ("\nWORD = )\n", "line 2: SyntaxError")):
        (path / "words.py").write_text(text)
        with pytest.raises(DefinitionError, match=rf"^a/words\.py, {message}"):
            load_repo(path)


def test_a_module_that_ends_python_or_is_no_utf_8_is_one_line(tmp_path):
    path = make(tmp_path / "a")
    for text, message in (
        (b"import sys\n\nsys.exit(3)\n", r"^a/words\.py, line 3: it ends Python while it is imported \(exit code 3\); keep that below"),
        ("WORD = 1\n".encode("utf-16"), r"^a/words\.py: it is not UTF-8; save it as UTF-8$"),
    ):
        (path / "words.py").write_bytes(text)
        with pytest.raises(DefinitionError, match=message):
            load_repo(path)


def test_what_a_module_prints_is_no_part_of_a_result(tmp_path, capsys):
    path = make(tmp_path / "a")
    with (path / "features.py").open("a") as features:
        features.write("\nprint('hello')\n")
    load_repo(path)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\n")


def test_what_does_not_exist(tmp_path):
    path = make(tmp_path / "a")
    with pytest.raises(ConfigError, match="no such folder"):
        load_repo(tmp_path / "b")
    with pytest.raises(DefinitionError, match=r"^a has no module 'feetures'; write feetures\.py or correct the name$"):
        load_repo(path, definitions="feetures")
    with pytest.raises(DefinitionError, match=r"^a has no module 'features\.py'; write 'features'$"):
        load_repo(path, definitions="features.py")
    with pytest.raises(DefinitionError, match=r"^'words:gn': module 'words' of a has no 'gn'; correct the name$"):
        load_repo(path).attribute("words:gn")


@pytest.mark.parametrize(
    ("yaml", "words", "line"),
    [
        (
            "",
            ["--repo", "nowhere"],
            "error: --repo {root}/nowhere: no such folder; give a feature repository, or create one with 'tandem init'",
        ),
        ("", ["--start", "soon"], "error: --start 'soon' is not a time; use 2013-01-31 or 2013-01-31T06:00"),
        ("", [], "error: --start is missing; give a date such as --start 2013-01-01"),
        (
            "",
            ["--start", "2013-01-02", "--end", "2013-01-01"],
            "error: range 2013-01-02 00:00 to 2013-01-01 00:00: the end must be after the start",
        ),
        ("", ["--start", "2013-01-01", "--end", "2013-01-02"], "error: source 'parcels': there is no folder"),
        (
            "shards: 3\n",
            [],
            "error: tandem.yaml: shards: Extra inputs are not permitted (got 3); correct it or remove the setting; known keys: data, ",
        ),
    ],
)
def test_the_command_says_mistakes_in_one_line(tmp_path, yaml, words, line):
    path = make(tmp_path / "a")
    (path / "tandem.yaml").write_text(yaml)
    command = [sys.executable, "-m", "pipelines.cli", "batch", *([] if "--repo" in words else ["--repo", str(path)]), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(line.format(root=ROOT)), done.stderr
    assert [x for x in lines if x.startswith("error")] == lines[-1:]
    assert "Traceback" not in done.stderr


def test_a_pipeline_that_has_nothing_to_train_on_does_not_begin(tmp_path):
    """It made rows, applied and materialized them first."""
    path = make(tmp_path / "a")
    command = [sys.executable, "-m", "pipelines.cli", "pipeline", "--repo", str(path), "--start", "2013-01-01", "--end", "2013-01-03"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "error: --start and demo.warm_up_days: 7 make --train-start 2013-01-08T00:00, which is not before --end 2013-01-03T00:00: no"
        " training examples; give an earlier --train-start\n",
    )
    assert not (tmp_path / "data" / "runs").exists()


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("Error building validator:\\n  KeyboardInterrupt: ", 130, "error: interrupted; run the same command again to resume"),
        ("index out of bounds", 1, "error: features.py, line 5: PanicException: index out of bounds (full traceback: "),
    ],
)
def test_a_panic_is_one_line_and_an_interrupt_where_it_is_one(tmp_path, text, code, line):
    """Ctrl-C while pydantic made a class was a trace of PanicException, which is no Exception."""
    path = make(tmp_path / "a", features=f"class PanicException(BaseException):\n    pass\n\n\nraise PanicException('{text}')\n")
    command = [sys.executable, "-m", "pipelines.cli", "check", "--repo", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1, done.stderr


def test_a_function_that_ends_python_is_one_line_and_no_exit_code_of_ours(tmp_path):
    path = make(tmp_path / "a")
    (path / "tandem.yaml").write_text('demo: {events: "words:write"}\n')
    (path / "words.py").write_text("import sys\n\nWORD = 'one'\n\n\ndef write(*given):\n    sys.exit(3)\n")
    command = [sys.executable, "-m", "pipelines.cli", "events", "--repo", str(path), "--start", "2013-01-01", "--end", "2013-01-02"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: words.py, line 7: sys.exit(3) ended the command; raise an error that says what is wrong"


def test_what_functions_print_is_no_part_of_the_json(tmp_path):
    """``tandem train --json`` of a ``run_fn`` that prints was no JSON, which the exported Airflow file reads."""
    path = make(tmp_path / "a")
    (path / "tandem.yaml").write_text('demo: {events: "words:write"}\n')
    (path / "words.py").write_text(
        "import os, subprocess, sys\n\nWORD = 'one'\n\n\ndef write(*given):\n    print('from Python')\n    os.write(1, b'from C\\n')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"from a child\")'], check=True)\n    return {'parcels': 3}\n"
    )
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "events",
        "--repo",
        str(path),
        "--start",
        "2013-01-01",
        "--end",
        "2013-01-02",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout) == {"parcels": 3}, done.stdout
    assert all(f"from {who}" in done.stderr for who in ("Python", "C", "a child"))
