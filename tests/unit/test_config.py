"""Settings: file under environment under flags, and one line for every mistake."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.project.config import load_settings, parse_duration, parse_time
from pipelines.training.experiments import read_grid
from serving.features import load_repo_config
from transforms.errors import ConfigError


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    return folder


def write(repo, text):
    (repo / "tandem.yaml").write_text(text)


def test_without_a_file_there_are_defaults(repo):
    settings = load_settings(repo)
    assert settings.data == (repo.parent / "data").resolve()
    assert (settings.definitions, settings.models, settings.batch.shards, settings.batch.max_reject_share) == ("features", [], 2, 0.01)


def test_file_environment_flags(repo, tmp_path, monkeypatch):
    write(repo, "data: ../elsewhere\nbatch: {shards: 3, slice_days: 9}\ndemo: {start: 2013-01-01}\n")
    settings = load_settings(repo)
    assert (settings.data, settings.batch.shards, settings.batch.slice_days) == (tmp_path / "elsewhere", 3, 9)
    assert settings.demo.start == datetime(2013, 1, 1, tzinfo=UTC)
    monkeypatch.setenv("TANDEM_BATCH__SHARDS", "7")
    monkeypatch.setenv("TANDEM_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("TANDEM_SOMETHING_ELSE", "is none of ours to judge")
    settings = load_settings(repo)
    assert (settings.data, settings.batch.shards, settings.batch.slice_days) == (tmp_path / "environment", 7, 9)
    assert load_settings(repo, data=tmp_path / "flag", definitions=None).data == tmp_path / "flag"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dta: x\n", ["tandem.yaml", "dta", "known keys: data, definitions"]),
        ("batch: {shard: 2}\n", ["tandem.yaml", "batch.shard", "got 2", "shards"]),
        ("batch: {shards: 0}\n", ["tandem.yaml", "batch.shards", "greater than or equal to 1", "got 0"]),
        ("batch: {shards: many}\n", ["tandem.yaml", "batch.shards", "integer", "'many'"]),
        ("batch: {max_reject_share: 1.5}\n", ["batch.max_reject_share", "less than or equal to 1", "1.5"]),
        ("demo: {start: soon}\n", ["demo.start", "'soon'"]),
        *(
            (f"stream: {{checkpoints: '{url}'}}\n", ["stream.checkpoints", "use a URL with a path", url])
            for url in ("/mnt/a", "s3://b", "s3:b")
        ),
        ("batch: 3\n", ["tandem.yaml", "batch", "got 3"]),
        ("data:\n", ["tandem.yaml", "data", "None"]),
        ("definitions:\n", ["tandem.yaml", "definitions", "None"]),
        ("kafak:\n  # bootstrap_servers: there\n", ["tandem.yaml", "kafak", "known keys: data, definitions"]),
        ("- a\n- b\n", ["tandem.yaml", "mapping"]),
        ("data: [\n", ["tandem.yaml: line 2: expected the node content"]),
        ("data: d\na: b: c\n", ["tandem.yaml: line 2: mapping values are not allowed here"]),
        ("data: d\n1: x\n", ["tandem.yaml: line 2: the key '1' is read as int, not as a name; put it in quotes"]),
        ("kafka: {on: 1}\n", ["line 1: the key 'on' is read as bool"]),
        ("~: x\n", ["line 1: the key '~' is read as null"]),
        ("stream: {2024-01-01: x}\n", ["line 1: the key '2024-01-01' is read as timestamp"]),
        ("data: d\n? [a, b]\n: x\n", ["line 2: a list or a mapping stands as a key"]),
        ("batch:\n  <<: 5\n", ["line 2: expected a mapping"]),
        ("data: " + "[" * 3000 + "]" * 3000, ["nested too deeply"]),
        ("kafka:\n\tformats: {}\n", ["line 2: found character '\\t'"]),
        ("data: a\0b\n", ["at place 7", "UTF-8"]),
        ('data: d\ndefinitions: "a\\0b"\n', ["line 2: a text has a NUL"]),
        ('data: "\\ud800"\n', ["line 1: a text has a NUL, or half a character"]),
        ("batch: {shards: " + "9" * 5000 + "}\n", ["line 1: no such date or number"]),
        ("demo: {start: 2024-13-45}\n", ["line 1: no such date or number"]),
        ('"a\\nb\\e[31m": 1\n', [r"tandem.yaml: 'a\nb\x1b[31m': Extra inputs"]),
        ("data: a\nmodels: []\ndata: b\n", ["tandem.yaml: duplicate key 'data' in line 1 and in line 3; keep one of them"]),
        ("batch:\n  shards: 2\n  'shards': 3\n", ["tandem.yaml: duplicate key 'shards' in line 2 and in line 3"]),
        ('{"batch": {"shards": 2, "shards": 3}}', ["tandem.yaml: duplicate key 'shards' twice in line 1"]),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_value(repo, text, parts):
    write(repo, text)
    with pytest.raises(ConfigError) as e:
        load_settings(repo)
    message = str(e.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_what_is_no_text_and_what_is_no_file_is_one_line(repo):
    (repo / "tandem.yaml").write_bytes(b"data: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"^tandem.yaml: at place 9: .* write it as UTF-8"):
        load_settings(repo)
    (repo / "tandem.yaml").unlink()
    (repo / "tandem.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"tandem.yaml is no file \(a folder, or a link to nothing\)"):
        load_settings(repo)


@pytest.mark.parametrize(
    "password", ["*hunter2", "!hunter2", "!hunter2!x y", "&hunter2 *hunter3", "@hunter2", "%hunter2", "{hunter2", "[hunter2"]
)
def test_a_password_that_yaml_reads_as_something_else_is_not_shown(repo, password):
    write(repo, f"kafka: {{sasl_password: {password}}}\n")
    with pytest.raises(ConfigError) as e:
        load_settings(repo)
    assert "hunter" not in str(e.value)


def test_what_a_merge_repeats_is_no_mistake(repo):
    write(repo, "batch: &all {shards: 2, slice_days: 5}\nserve:\n  <<: *all\n  shards: 3\n  inner: {shards: 4}\n")
    assert load_settings(repo).serve == {"shards": 3, "slice_days": 5, "inner": {"shards": 4}}


@pytest.mark.parametrize("text", ["units: [1]\nrate: [2]\nunits: [3]\n", '[{"units": 1, "units": 2}]'])
def test_a_key_that_is_there_twice_is_told_in_every_yaml_file(repo, text):
    """Also in a grid of experiments and in feature_store.yaml: the last one would win in silence."""
    for name, read in (("grid.yaml", lambda: read_grid(repo / "grid.yaml")), ("feature_store.yaml", lambda: load_repo_config(repo))):
        (repo / name).write_text(text)
        with pytest.raises(ConfigError, match=f"{name}: duplicate key 'units' ") as e:
            read()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?b", "a\\b"])
def test_a_data_folder_may_have_any_name(repo, tmp_path, name):
    """SECURITY low (patterns in paths): it failed in the analysis, after minutes; TensorFlow gets another name of it (plain_paths)."""
    assert load_settings(repo, data=tmp_path / name).data == tmp_path / name


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"--repo .*nowhere: no such folder; give a feature repository, or create one"):
        load_settings(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2013-01-31", datetime(2013, 1, 31, tzinfo=UTC)),
        ("2013-01-31T06:00", datetime(2013, 1, 31, 6, tzinfo=UTC)),
        ("2013-01-31T06:00:00+02:00", datetime(2013, 1, 31, 4, tzinfo=UTC)),
        ("2013-01-31T06:00:00Z", datetime(2013, 1, 31, 6, tzinfo=UTC)),
        (datetime(2013, 1, 31, 6), datetime(2013, 1, 31, 6, tzinfo=UTC)),
    ],
)
def test_moments_are_of_utc(text, want):
    assert parse_time(text) == want and parse_time(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["", "yesterday", "2013-13-01", "31.01.2013"])
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@pytest.mark.parametrize("text", ["99999999999999d", "1000001d", "9" * 400 + "s", "0d", "-5d", "1e400d", ""])
def test_a_length_of_time_that_is_none_is_one_line(text):
    with pytest.raises(ValueError, match=r"is not a duration|more than a thousand years"):
        parse_duration(text)


def test_moments_at_the_ends_of_the_calendar():
    for text in ("0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00"):
        with pytest.raises(ValueError, match="outside of the years"):
            parse_time(text)
    assert parse_time("0001-01-01").year == 1 and parse_duration("365000d").days == 365_000


def test_a_section_of_which_every_line_is_a_comment_is_as_one_that_is_left_out(repo):
    """FAULTS 22: ``models:`` with nothing below it is a project without a model, and no mistake."""
    (repo / "tandem.yaml").write_text("models:\n# - labels:late\nkafka:\n  # bootstrap_servers: there\nbatch: {shards: 3}\n")
    found = load_settings(repo)
    (repo / "tandem.yaml").write_text("batch: {shards: 3}\n")
    assert not found.models and found.model_dump() == load_settings(repo).model_dump()
