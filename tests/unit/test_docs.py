"""What README.md and docs/ say is true: examples run, links lead somewhere, commands and flags exist."""

from __future__ import annotations

import contextlib
import io
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("transforms", "pipelines", "serving", "tandem", "feature_repo", "tests", "docs", "docker", "examples")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPOSITORY = ROOT / "docs" / "repository.md"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page that are in ``language`` ("": none named)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def python_block(part: str) -> str:
    """The one Python block of docs/repository.md that holds ``part``."""
    (block,) = [b for b in blocks(REPOSITORY, "python") if part in b]
    return block


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in heads}


def definitions() -> tuple[dict[str, Any], str]:
    """The names that the definition example leaves, and what it printed."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(python_block("EventSource("), REPOSITORY.name, "exec"), names)
    return names, out.getvalue()


def test_definition_example_prints_what_the_page_says() -> None:
    _, printed = definitions()
    assert printed in blocks(REPOSITORY, "")


def test_the_inferred_definition_in_the_readme_becomes_feast_objects(tmp_path: Path) -> None:
    from pipelines.project.repository import load_module

    (block,) = blocks(PAGES[0], "python")
    (tmp_path / "features.py").write_text(block)
    view = load_module(tmp_path, "features").view_clicks_by_user_id
    assert {"count_1h", "duration_ms_max_24h", "tandem_revision"} <= {f.name for f in view.features}


def test_definition_example_becomes_feast_objects(tmp_path: Path) -> None:
    from pipelines.project.repository import load_module

    (tmp_path / "features.py").write_text(python_block("EventSource(") + python_block("feast_views"))
    with contextlib.redirect_stdout(io.StringIO()):
        view = load_module(tmp_path, "features").view_shop_orders
    assert {"count_1h", "amount_mean_1h", "tandem_revision"} <= {f.name for f in view.features}


def test_preprocessing_example_traces() -> None:
    import tensorflow as tf
    import tensorflow_transform as tft

    from pipelines.batch.analysis import graph_inputs, wrap_preprocessing_fn

    group = definitions()[0]["shop_orders"]
    names: dict[str, Any] = {}
    exec(compile(python_block("# preprocessing.py"), REPOSITORY.name, "exec"), names)
    inputs = graph_inputs(group)
    kinds = {"double": tf.float32, "int64": tf.int64, "string": tf.string}
    specs = {
        f.name: tf.SparseTensorSpec([None, None], kinds[str(f.type)]) if f.nullable else tf.TensorSpec([None, 1], kinds[str(f.type)])
        for f in inputs
    }
    function: Any = wrap_preprocessing_fn(names["shop_orders"], inputs, REPOSITORY.name)
    read = tft.get_analyze_input_columns(function, specs, force_tf_compat_v1=False)
    assert set(read) == {"count_1h", "amount_mean_1h", "channel_last_24h"}


def test_yaml_examples_are_valid(tmp_path: Path) -> None:
    from feast.repo_config import load_repo_config

    from pipelines.project.config import load_settings
    from serving.settings import ServingSettings

    stores = [yaml.safe_load(b) for page in PAGES for b in blocks(page, "yaml") if "online_store:" in b]
    full = next(s for s in stores if "project" in s)
    for i, store in enumerate(stores):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "feature_store.yaml").write_text(yaml.safe_dump({**full, **store}))
        config = load_repo_config(folder, folder / "feature_store.yaml")
        assert type(config.online_store).__name__.startswith("Ordered")
        assert type(config.offline_store).__name__.startswith("Asof")
    texts = [b for page in PAGES for b in blocks(page, "yaml") if "online_store:" not in b]  # all others are tandem.yaml's
    assert len(texts) >= 8
    for text in texts:
        (tmp_path / "tandem.yaml").write_text(text)
        settings = load_settings(tmp_path)  # a key that does not exist is an error
        ServingSettings(feature_repo=tmp_path, models=tmp_path, graphs=tmp_path, **settings.serve)


def test_settings_that_look_like_defaults_are_the_defaults(tmp_path: Path) -> None:
    from pipelines.project.config import StreamSettings

    (block,) = [b for b in blocks(ROOT / "docs" / "streaming.md", "yaml") if "stream:" in b]
    assert StreamSettings(**yaml.safe_load(block)["stream"]) == StreamSettings()
    assert set(yaml.safe_load(block)["stream"]) == set(StreamSettings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def commands() -> dict[str, Any]:
    """All commands but old spellings, by their words: ``{"batch": ..., "stream": ..., "stream stop": ...}``."""
    from pipelines.cli.root import COMMANDS, app

    out: dict[str, Any] = {}
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found: list[tuple[str, Any]] = [(name, command) for name, command in known.items() if name in COMMANDS]
    while found:
        name, command = found.pop()
        out[name] = command
        found += [(f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items() if not c.hidden]
    return out


def flags_of(command: Any) -> set[str]:
    """The options that a command takes."""
    return {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_exist(page: Path) -> None:
    known = commands()
    text = page.read_text("utf-8")
    lines = re.findall(r"^(?:[A-Z_]+=\S+ )*(tandem .+)$", "\n".join(blocks(page, "")), re.MULTILINE)
    for span in re.findall(r"`(tandem [^`\n]+)`", text) + lines:
        words = span.split(" -- ")[0].split()[1:]
        if words[0] == "-m":
            assert find_spec(words[1]) is not None, f"{page.name}: {span}"
            continue
        assert words[0] in known, f"{page.name}: {span}"
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if hasattr(known[name], "commands") and len(words) > 1:  # what follows must be one of its own flags, not a word of ours
            assert words[1].startswith("-"), f"{page.name}: {span}"
        flags = {w.split("=")[0] for w in words if w.startswith("--")}
        assert flags <= flags_of(known[name]), f"{page.name}: {span}"
    everywhere = {flag for c in known.values() for flag in flags_of(c)}
    alone = set(re.findall(r"`(--[a-z-]+)[` ]", text))
    assert alone <= everywhere, f"{page.name}: {alone - everywhere}"


def test_every_command_is_in_the_readme() -> None:
    text = PAGES[0].read_text("utf-8")
    missing = [name for name in commands() if f"`tandem {name}" not in text and name != "dlq"]
    assert not missing


def test_metrics_are_called_so(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from pipelines.streaming.status import StreamStatus
    from pipelines.streaming.stream_metrics import StreamMetrics
    from pipelines.watch.job_metrics import JobMetrics, page
    from serving.metrics import Metrics

    registry = CollectorRegistry(auto_describe=False)
    registry.register(StreamMetrics(StreamStatus))
    streams = {line.split()[2] for line in generate_latest(registry).decode().splitlines() if line.startswith("# TYPE")}
    text = "\n".join(p.read_text("utf-8") for p in PAGES)
    told = set(re.findall(r"`(tandem_stream_\w+)`", text))
    assert told == streams
    others = Metrics().page().decode() + page(JobMetrics(tmp_path)).decode()
    known = streams | set(re.findall(r"^# TYPE (\w+) ", others, re.MULTILINE))
    assert set(re.findall(r"`(tandem_\w+_(?:total|seconds))`", text)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)) <= targets


def test_every_aggregate_and_reason_is_explained() -> None:
    from transforms.definitions import AGGREGATES
    from transforms.reasons import REASONS

    text = (ROOT / "docs" / "semantics.md").read_text("utf-8")
    missing = [name for name in (*(a.__name__ for a in AGGREGATES), *REASONS) if f"`{name}`" not in text]
    assert not missing


def test_picture_is_well_formed() -> None:
    root = ElementTree.parse(ROOT / "docs" / "data-way.svg").getroot()
    assert root.tag.endswith("svg") and root.get("viewBox")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_files_of_the_tree_that_a_page_names_are_there(page: Path) -> None:
    """By their path, or the end of it."""
    there = [p.relative_to(ROOT).as_posix() for top in TOPS for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".lua")]
    there += [p.name for p in ROOT.glob("*.py")]
    named = re.findall(r"`([\w./-]+\.(?:py|lua))`", page.read_text("utf-8"))
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)] == []


def test_what_extending_says_a_part_holds_is_there() -> None:
    """A class of a stranger's that reads it goes through three events where a group is made of it."""
    from dataclasses import dataclass

    from transforms import functions
    from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours

    table = re.findall(r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \| (.+) \|$", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.MULTILINE)
    told = {state: re.findall(r"`(\w+)(\((?:k|n)?\))?`", reads) for states, reads in table for state in re.findall(r"\w+", states)}
    assert told.keys() == {"Counts", "Sums", "Squares", "Smallest", "Greatest", "Newest", "Earliest", "Latest", "ValueCounts"}
    read: list[str] = []

    @dataclass(frozen=True)
    class Reads(functions.Aggregate):
        kind = "reads"

        def output(self, dtype: str | None) -> functions.Output:
            return functions.Output("int64")

        def states(self) -> tuple[functions.StateSpec, ...]:
            made = (functions.Earliest, functions.Latest)
            return tuple(self.state(kind, 1 if kind in made else 0) for kind in (getattr(functions, name) for name in told))

        def extract_output(self, parts: Any, boundary: Any) -> Any:
            counts = parts[0].n
            for part, (state, names) in zip(parts, told.items(), strict=True):
                for name, call in names:
                    got = getattr(part, name)
                    got = got(*([2] if call == "(k)" else [])) if call else got
                    assert len(got) == len(counts), (state, name)
                    read.append(f"{state}.{name}")
            return functions.Count.extract_output(Count(over=hours(1)), [parts[0]], boundary)

    source = EventSource(
        name="orders", fields=[Field("id", "string", required=True), Field("x", "float64")], event_time="at", tie_breaker="id"
    )
    group = FeatureGroup(
        name="orders", source=source, entity=Entity("id"), hop=hours(1), ttl=hours(2), aggregates=[Reads("x", over=hours(1))]
    )
    assert group.features and {one.partition(".")[0] for one in read} == told.keys()


def test_the_commands_that_the_page_says_have_no_repo_are_those() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    (told,) = re.findall(r"all but (`tandem init` and `tandem export .*?)\)", text, re.DOTALL)
    without = {words for words, command in commands().items() if "--repo" not in flags_of(command)}
    groups = {"keys", "export", "topics", "dlq"}
    assert without - groups == {"init", *(f"export {name}" for name in re.findall(r"`(?:tandem export )?(\w+)`", told))}
