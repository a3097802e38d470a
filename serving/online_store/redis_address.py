"""Connection strings as Feast writes them: ``host:port,host:port,name=value``. No error repeats one: it holds the password."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from feast.infra.online_stores.redis import RedisOnlineStore
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from transforms.errors import ConfigError

__all__ = ["limited", "named", "of_cluster", "parsed", "wait_seconds", "wrong"]

_OF_CLUSTERS = {
    "skip_full_coverage_check", "require_full_coverage", "read_from_replicas", "reinitialize_steps", "cluster_error_retry_attempts",
    "dynamic_startup_nodes",
}  # fmt: skip
"""Options of redis-py's own client of clusters."""
_LONGEST_WAIT = 5.0


def limited(connection_string: str, seconds: float) -> str:
    """A connection string with time limits for the socket, unless it has some."""
    if "socket_timeout" in connection_string:
        return connection_string
    return f"{connection_string},socket_timeout={seconds:g},socket_connect_timeout={seconds:g}"


def named(connection_string: str) -> str:
    """The servers that it names, and nothing else, however it is misspelt."""
    return ",".join(re.findall(r"(?:^|(?<=,))[\w.\-]+:\d+(?=,|$)", connection_string))


def parsed(connection_string: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The servers and redis-py's options, as Feast reads them; but a user or password of digits is that text, a certificate's host is
    looked at, and nothing is waited for without end. A server that cannot be reached is told at once: newer redis-py tries it again for
    up to ten seconds by itself, while whoever asked has a time limit and knows better when to ask again."""
    nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
    for part in connection_string.split(","):
        name, _, value = part.partition("=")
        if name in ("username", "password") and not isinstance(options.get(name), str):
            options[name] = value
    # redis-py before 5 takes a certificate of any host unless it is told otherwise.
    tls = {"ssl_check_hostname": True} if options.get("ssl") else {}
    return nodes, {"socket_connect_timeout": 5.0, "socket_timeout": 30.0, "retry": Retry(NoBackoff(), 0), **tls, **options}


def wait_seconds(connection_string: str) -> float:
    """How long to wait for replicas: shorter than the socket does for an answer."""
    limit = parsed(connection_string)[1]["socket_timeout"]
    return min(_LONGEST_WAIT, 0.8 * limit) if isinstance(limit, (int, float)) else _LONGEST_WAIT


def of_cluster(nodes: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The servers of a cluster to begin with, and the options of the connections to each. Raises ConfigError."""
    settings = {name: value for name, value in options.items() if name not in _OF_CLUSTERS}
    if settings.pop("db", 0) != 0:
        raise ConfigError("feature_store.yaml: online_store.connection_string: a cluster has no db but 0; take db=... out of it")
    try:
        seeds = [(node["host"], int(node["port"])) for node in nodes]
        Redis(host="", port=0, **settings)  # connects later
    except (TypeError, ValueError, KeyError) as error:
        raise wrong(error) from None
    if not seeds:
        raise wrong(KeyError("host"))
    return seeds, settings


def wrong(error: Exception) -> ConfigError:
    """What a string that cannot be used is told by: an unknown option by its name, else how one reads."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    what = f"has the option {unknown[1]!r}, which redis-py does not know" if unknown else "names no server that can be read"
    return ConfigError(
        f"feature_store.yaml: online_store.connection_string {what}; write host:port,name=value, e.g. redis:6379,db=0,password=... (no URL)"
    )
