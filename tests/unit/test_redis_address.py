"""Connection strings of Redis: what becomes of them, and what is never repeated."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway

from serving.online_store.redis_address import limited, named, of_cluster, parsed, wait_seconds
from transforms.errors import ConfigError


def tries(options: dict[str, Any]) -> int:
    """How often redis-py asks a server that is away; takes that option out."""
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise RedisAway("away")

    with pytest.raises(RedisAway):
        options.pop("retry").call_with_retry(ask, lambda _: None)
    return len(asked)


def test_options_are_feasts_but_passwords_are_text_and_waits_have_an_end() -> None:
    nodes, options = parsed("a:1,b:2,db=3,ssl=true,password=007,username=12,socket_timeout=2")
    assert nodes == [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}]
    assert tries(options) == 1
    assert options == {
        "db": 3, "ssl": True, "ssl_check_hostname": True, "password": "007", "username": "12", "socket_timeout": 2,
        "socket_connect_timeout": 5.0,
    }  # fmt: skip
    assert parsed('a:1,password="quoted"')[1]["password"] == "quoted", "as Feast reads it"
    assert wait_seconds("a:1") == 5.0 and wait_seconds("a:1,socket_timeout=1") == 0.8
    assert limited("a:1", 2) == "a:1,socket_timeout=2,socket_connect_timeout=2"


def test_what_is_named_in_an_error_holds_no_secret() -> None:
    assert named("a.b-c:1,d:2,password=x,hunter2,u:p@h:1") == "a.b-c:1,d:2"
    assert named("redis://:hunter2@h:6379/0") == ""
    for text in ("hunter2", "a:hunter2", "redis://u:hunter2@h:1", "password=hunter2", "a:1,db=1,password=hunter2", "a:1,hunter2=x"):
        with pytest.raises(ConfigError) as error:
            of_cluster(*parsed(text))
        told = str(error.value)
        assert "\n" not in told and ("hunter2" not in told or text == "a:1,hunter2=x"), told


def test_options_of_redis_pys_own_clusters_are_no_mistake() -> None:
    seeds, settings = of_cluster(*parsed("a:1,b:2,skip_full_coverage_check=true,ssl=true,password=x,db=0"))
    assert seeds == [("a", 1), ("b", 2)]
    assert tries(settings) == 1
    assert settings == {"ssl": True, "ssl_check_hostname": True, "password": "x", "socket_timeout": 30.0, "socket_connect_timeout": 5.0}
