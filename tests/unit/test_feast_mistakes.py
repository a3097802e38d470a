"""Mistakes in feature_store.yaml and stores that do not answer: one line, what and the fix, and nothing that may be a password."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.feature_store.sql_registry import database_of
from pipelines.feature_store.store import open_store, registry_file
from pipelines.feature_store.store_check import check_stores
from serving.features import load_repo_config
from serving.registry_place import feast_config
from transforms.errors import ConfigError, TandemError

ROOT = Path(__file__).resolve().parents[2]
STORES = "tandem.serving.online_store"
DYNAMODB = f"{STORES}.dynamodb.OrderedDynamoDBOnlineStore"
REDIS, POSTGRES = f"{STORES}.redis.OrderedRedisOnlineStore", f"{STORES}.postgres.OrderedPostgresOnlineStore"
BOMB = "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9) if n else ''}]\n  k{n}: {n}\n" for n in range(12))
STRING = "connection_string: 'h:1,password=hunter2'"


def repo_of(folder: Path, online: str, registry: str = "r.db") -> Any:
    (folder / "feature_store.yaml").write_text(
        f"project: p\nregistry: {registry}\nprovider: local\nentity_key_serialization_version: 3\nonline_store: {online}\n"
    )
    return SimpleNamespace(path=folder)


@pytest.mark.parametrize("way", [lambda repo: load_repo_config(repo.path), open_store], ids=["serve", "commands"])
@pytest.mark.parametrize(
    ("online", "why"),
    [
        (f"{{type: {REDIS}, {STRING}, wait_replica: 1}}", "wait_replica: there is no such setting"),
        (f"{{type: {REDIS}, con{STRING}}}", "conconnection_string: there is no such setting"),
        (f"{{type: {REDIS}, {STRING}, redis_type: hunter2}}", "redis_type: Input should be 'redis', 'redis_cluster' or 'redis_sentinel'"),
        (f"{{type: {REDIS}, {STRING}, wait_replicas: -1}}", "wait_replicas: Input should be greater than or equal to 0"),
        (
            f"{{type: {POSTGRES}, host: h, database: d, user: u, pasword: hunter2}}",
            "password: is missing; pasword: there is no such setting",
        ),
        (f"{{type: {DYNAMODB}, regoin: hunter2}}", "region: is missing; regoin: there is no such setting"),
        (f"{{type: {POSTGRES}, host: h, database: d, user: u, password: [hunter2]}}", "password: Input should be a valid string"),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_its_value_is_not(tmp_path: Path, way: Callable[[Any], Any], online: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        way(repo_of(tmp_path, online))
    told = str(error.value)
    assert why in told and "hunter2" not in told and "\n" not in told


def test_stores_that_do_not_answer_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        redis = f"{{type: {REDIS}, connection_string: '127.0.0.1:{port},password=hunter2'"
        sqlite = f"{{type: {STORES}.sqlite.OrderedSqliteOnlineStore, path: online.db}}"
        for online, registry, why in (
            (redis + "}", "r.db", f"redis 127.0.0.1:{port}: "),
            (redis + ", redis_type: redis_cluster}", "r.db", f"redis cluster 127.0.0.1:{port}: "),
            (redis.replace(",password", ",pasword") + "}", "r.db", "option 'pasword', which redis-py does not know"),
            (
                f"{{type: {DYNAMODB}, region: eu-central-1, endpoint_url: 'http://127.0.0.1:{port}', total_max_retry_attempts: 1}}",
                "r.db",
                f"dynamodb http://127.0.0.1:{port}: ",
            ),
            (
                f"{{type: {POSTGRES}, host: 127.0.0.1, port: {port}, database: d, user: u, password: hunter2}}",
                "r.db",
                f"127.0.0.1:{port}/d: ",
            ),
            (
                sqlite,
                f"{{registry_type: sql, path: 'postgresql+psycopg://u:hunter2@127.0.0.1:{port}/d'}}",
                f"127.0.0.1:{port}/d cannot be read",
            ),
        ):
            with pytest.raises(TandemError) as error:
                check_stores(repo_of(tmp_path, online, registry))
            told = str(error.value)
            assert why in told and "hunter2" not in told and "\n" not in told
    told = check_stores(repo_of(tmp_path, sqlite, "{registry_type: sql, path: 'sqlite:///r.sqlite'}"))
    assert told == f"online store: OrderedSqliteOnlineStore; registry: sqlite:///{tmp_path}/r.sqlite"
    assert {p.name for p in tmp_path.iterdir()} == {"data", "feature_store.yaml"}, "nothing is made"


@pytest.mark.parametrize(
    "way",
    [
        lambda repo: load_repo_config(repo.path),
        open_store,
        lambda repo: database_of(repo.path),
        lambda repo: registry_file(repo.path),
        lambda repo: feast_config(repo.path),
    ],
    ids=["serve", "commands", "database", "file", "apply"],
)
@pytest.mark.parametrize(
    ("more", "why"),
    [
        (BOMB, "its aliases stand for more than 100,000 values"),
        ("project: q", "duplicate key 'project' in line 1 and in line 6"),
        ("password: *hunter2", "line 6: found undefined alias ...; correct it"),
        ("flags: !hunter2 {}", "line 6: "),
    ],
    ids=["merge bomb", "repeated key", "alias", "tag"],
)
def test_whoever_reads_the_file_reads_it_by_the_same_rules(tmp_path: Path, way: Callable[[Any], Any], more: str, why: str) -> None:
    """Feast's own reader writes such aliases out, takes the last of two keys, and repeats what may be a password."""
    repo = repo_of(tmp_path, "null")
    with (tmp_path / "feature_store.yaml").open("a") as out:
        out.write(f"{more}\n")
    with pytest.raises(ConfigError) as error:
        way(repo)
    told = str(error.value)
    assert why in told and "hunter2" not in told and "\n" not in told


OURS = "tandem.serving.offline_store.AsofOfflineStore"


def with_offline(folder: Path, offline: str) -> Path:
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: p\nregistry: r.db\nprovider: local\nentity_key_serialization_version: 3\noffline_store: {offline}\n"
    )
    return folder


def test_the_offline_store_is_loaded_where_it_is_used(tmp_path: Path) -> None:
    """Ours comes with DuckDB, a third of a second that who reads the registry need not spend; any other is looked at, and all settings."""
    repo = with_offline(tmp_path / "ours", f"{{type: {OURS}}}")
    code = (
        "import sys; from pathlib import Path; from serving.registry_place import feast_config; found = feast_config(Path(sys.argv[1]));"
        "print('duckdb' in sys.modules, type(found.offline_store).__name__, found.offline_store.memory_limit, 'duckdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(repo)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False AsofOfflineStoreConfig 2GB True\n"
    found = feast_config(with_offline(tmp_path / "set", f"{{type: {OURS}, memory_limit: 1GB, threads: 2}}")).offline_store
    assert (found.memory_limit, found.threads) == ("1GB", 2)
    for n, (offline, why) in enumerate(
        [
            (f"{{type: {OURS}, threads: hunter2}}", "threads: Input should be a valid integer"),
            (f"{{type: {OURS}, no_such: hunter2}}", "no_such: there is no such setting"),
            (f"{{type: {OURS.replace('Asof', 'No')}}}", "NoOfflineStoreConfig"),
            ("{type: no.such.OfflineStore}", "no.such"),
        ]
    ):
        with pytest.raises(ConfigError, match=r"^feature_store\.yaml: ") as error:
            feast_config(with_offline(tmp_path / str(n), offline))
        assert why in str(error.value) and "hunter2" not in str(error.value)
