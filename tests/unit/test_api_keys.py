"""API keys: only their hashes are kept, and a removed or expired one is refused (SECURITY H7)."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving import api_keys
from serving.api_keys import ApiKeys, add_key, read_keys, remove_keys
from serving.principals import ALL_SCOPES, ANYBODY, Principal, checked_scopes
from transforms.errors import ConfigError, DataError

NOW = datetime(2024, 5, 1, tzinfo=UTC)
EVERYTHING = Principal("environment", ALL_SCOPES)


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "_LOOK_SECONDS", 0.0)


def test_a_key_is_nowhere_but_with_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "access" / "keys.json"
    key = add_key(file, "pricing", ["model:delay", "view:*"], NOW)
    assert key.split("_", 2)[2] not in file.read_text() and key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ApiKeys(file, now=lambda: NOW).principal(key, EVERYTHING) == Principal("pricing", frozenset({"model:delay", "view:*"}))
    assert len(key) == len("tandem_") + 8 + 1 + 43


def test_what_is_no_key_is_nobody(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "a", ["admin"], NOW)
    other = add_key(tmp_path / "other.json", "a", ["admin"], NOW)
    keys = ApiKeys(file, now=lambda: NOW)
    for wrong in (
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        other,
        key.upper(),
        key + "x",
        "",
        "tandem_",
        key[:16] + other[16:],
        "ä" * 59,
    ):
        assert keys.principal(wrong, EVERYTHING) is None


def test_removed_and_expired_keys_are_refused_and_new_ones_taken_while_a_server_runs(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.json", [NOW]
    first = add_key(file, "a", ["admin"], NOW)
    keys = ApiKeys(file, now=lambda: now[0])
    assert keys.principal(first, EVERYTHING) is not None
    short = add_key(file, "b", ["admin"], NOW, NOW + timedelta(hours=1))
    assert keys.principal(short, EVERYTHING) is not None
    now[0] = NOW + timedelta(hours=1)
    assert keys.principal(short, EVERYTHING) is None
    assert [k.name for k in remove_keys(file, "a")] == ["a"]
    assert keys.principal(first, EVERYTHING) is None
    assert [k.name for k in read_keys(file)] == ["b"]
    with pytest.raises(ConfigError, match="neither the id nor the name"):
        remove_keys(file, "a")
    file.unlink()
    assert keys.principal(short, EVERYTHING) is None


def test_a_damaged_file_lets_nobody_new_in_and_keeps_those_of_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "a", ["admin"], NOW)
    keys = ApiKeys(file, now=lambda: NOW)
    assert keys.principal(key, EVERYTHING) is not None
    for damaged in ("", "[]", '{"keys": [{}]}', '{"keys": 5}', file.read_text().replace("admin", "root")):
        file.write_text(damaged)
        assert keys.principal(key, EVERYTHING) is not None
        with pytest.raises(DataError, match="not a file of API keys"):
            read_keys(file)
    assert ApiKeys(file, now=lambda: NOW).principal(key, EVERYTHING) is None
    assert "the previous keys stay in use" in caplog.text


def test_keys_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: add_key(file, f"n{i}", ["admin"], NOW), range(24)))
    keys = ApiKeys(file, now=lambda: NOW)
    found = [keys.principal(key, EVERYTHING) for key in made]
    assert {p.name for p in found if p is not None} == {f"n{i}" for i in range(24)}
    assert len(json.loads(file.read_text())["keys"]) == 24


def test_the_environments_key_has_all_scopes(tmp_path: Path) -> None:
    keys = ApiKeys(None, own="a-long-secret-of-a-container")
    assert keys.principal("a-long-secret-of-a-container", EVERYTHING) == EVERYTHING
    assert keys.principal("a-long-secret-of-a-containes", EVERYTHING) is None


@pytest.mark.parametrize("name", ["", "a b", "token:x", "CN=a", "a" * 65, "ä", "-a", "a\n"])
def test_names_that_could_be_somebody_elses_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        add_key(tmp_path / "keys.json", name, ["admin"], NOW)


def test_scopes() -> None:
    one = Principal("a", frozenset({"model:delay", "view:*"}))
    assert one.may("model", "delay") and one.may("view", "anything") and not one.may("model", "other") and not one.may("admin")
    assert not Principal("a", frozenset({"model:*"})).may("admin")
    assert ANYBODY.may("admin") and ANYBODY.may("model", "x")
    for bad in ("models:*", "model:", "model:a b", "*", "admin:*", "view:**", ""):
        with pytest.raises(ConfigError, match="is not a scope"):
            checked_scopes([bad], "here")
    with pytest.raises(ConfigError, match="lies in the past"):
        add_key(Path("/nowhere"), "a", ["admin"], NOW, NOW)


@pytest.mark.parametrize(
    "entry", [{"sha256": None}, {"sha256": "\u00e9" * 64}, {"sha256": ""}, {"name": 5}, {"name": "token:admin"}, {"expires": "2024-05-01"}]
)
def test_a_file_edited_by_hand_is_refused_as_a_whole(tmp_path: Path, entry: dict[str, object]) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "a", ["admin"], NOW)
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({"keys": [{**whole["keys"][0], **entry}]}))
    with pytest.raises(DataError, match="is not a file of API keys"):
        read_keys(file)
    assert ApiKeys(file, now=lambda: NOW).principal(key, EVERYTHING) is None


def _serve(folder: Path, serve: str) -> BaseException | None:
    """How ``tandem serve`` ends before there is a server."""
    from typer.testing import CliRunner

    from pipelines.cli.root import app

    (folder / "feature_store.yaml").write_text("{project: p, provider: local, registry: data/registry.db}\n")
    (folder / "tandem.yaml").write_text(f"data: data\nserve: {serve}\n")
    return CliRunner().invoke(app, ["serve", "--repo", str(folder), "--port", "0"]).exception


@pytest.mark.parametrize("insecure", ["", ", insecure: true"])
def test_a_named_file_of_keys_that_is_not_there_is_no_open_door(tmp_path: Path, insecure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was not mounted, behind a proxy on this machine: everybody was let in, without a word."""
    monkeypatch.delenv("TANDEM_API_KEY", raising=False)
    (tmp_path / "link.json").symlink_to(tmp_path / "not-mounted.json")
    for name in ("nowhere.json", "link.json"):
        refused = _serve(tmp_path, f"{{keys: {name}{insecure}}}")
        assert isinstance(refused, ConfigError) and name in str(refused) and "does not exist" in str(refused)


@pytest.mark.parametrize("name", ["keys", "tls_cert", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize("value", ["5", "[a]", "{a: b}", "true"])
def test_a_file_that_is_no_path_is_one_line(tmp_path: Path, name: str, value: str) -> None:
    refused = _serve(tmp_path, f"{{{name}: {value}}}")
    assert isinstance(refused, ConfigError) and f"serve.{name}" in str(refused)
