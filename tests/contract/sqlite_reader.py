"""A process that reads an SQLite online store as its stdin asks, a JSON per line; run as somebody who may not write in its folder.

Each answer is a line, too: what was read, and the instants (nanoseconds of the machine's monotonic clock) before and after.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from typing import Any

from feast.infra.online_stores.helpers import get_online_store_from_config

from serving.online_store.sqlite_file import SqliteFile
from tandem.testing.store_bench import NOW, Bench, configuration, key, view
from transforms.errors import StoreError


def values(bench: Bench, names: list[str]) -> list[float | None]:
    """Feature x of each, read as a server reads."""
    keys = [key(origin=name) for name in names]
    read = bench.store.online_read_stored(bench.config, bench.table, keys, ["x"])
    return [found["x"].double_val if found is not None and found["x"].WhichOneof("val") else None for _, found in read]


def of_store(asked: dict[str, Any], benches: dict[tuple[str, str], Bench], chance: random.Random) -> dict[str, Any]:
    """What a store gives, and at times the end of what it has open."""
    at = (asked["project"], asked["settings"]["path"])
    if at not in benches:
        config = configuration(asked["project"], asked["settings"])
        store: Any = get_online_store_from_config(config.online_store)
        store.clock = lambda: int(NOW.timestamp()) * 1_000_000
        benches[at] = Bench(store, config, view())
    bench = benches[at]
    said: dict[str, Any] = {"before": time.monotonic_ns()}
    try:
        said["read"] = values(bench, asked["names"])
        said["after"] = time.monotonic_ns()
        said["fingerprint"] = bench.store.applied_fingerprint(bench.config, "traffic")
        said["covered"] = repr(bench.covered())
        said["keys"] = sum(1 for _ in bench.store.stored_keys(bench.config, bench.table))
        if "write" in asked:
            bench.write(("EWR", NOW, 1, 1.0))
    except StoreError as e:
        said["error"] = str(e)
    if chance.random() < asked.get("leave", 0):  # as a thread that ends: the next one opens the file anew
        bench.store._file(bench.config).close()  # type: ignore[attr-defined]
    return said


def of_file(asked: dict[str, Any], files: dict[str, SqliteFile]) -> dict[str, Any]:
    """What statements give, in one call; before each but the first it says so and waits for a line."""
    file = files.setdefault(asked["file"], SqliteFile(asked["file"], 5.0, lambda conn: None))

    def read(conn: sqlite3.Connection) -> list[Any]:
        found = []
        for i, query in enumerate(asked["queries"]):
            if i:
                print(json.dumps({"at": i}), flush=True)
                sys.stdin.readline()
            found.append(conn.execute(query).fetchall())
        return found

    return {"read": file.read(read)}


def main() -> None:
    benches: dict[tuple[str, str], Bench] = {}
    files: dict[str, SqliteFile] = {}
    chance = random.Random(7)
    for line in iter(sys.stdin.readline, ""):
        asked: dict[str, Any] = json.loads(line)
        said = of_file(asked, files) if "file" in asked else of_store(asked, benches, chance)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
