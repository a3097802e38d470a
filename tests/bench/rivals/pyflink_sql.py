"""The sales' features in PyFlink SQL: ``python pyflink_sql.py JSON``, in an environment of its own; prints a line of JSON.

Three HOP windows in one statement set over one read of the topic, into the blackhole: no join to one row per entity, no store.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pyflink.version
from pyflink.table import EnvironmentSettings, TableEnvironment

asked = json.loads(sys.argv[1])
env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
for key, value in {
    "pipeline.jars": asked["jar"],
    "parallelism.default": str(asked["parallelism"]),
    "table.local-time-zone": "UTC",
    "taskmanager.numberOfTaskSlots": str(asked["parallelism"]),
    "execution.checkpointing.interval": "10 s",
    "pipeline.object-reuse": "true",
}.items():
    env.get_config().set(key, value)


def offsets(each: list[int]) -> str:
    return ";".join(f"partition:{n},offset:{o}" for n, o in enumerate(each))


def table(name: str, upto: list[int]) -> None:
    env.execute_sql(
        f"""CREATE TABLE {name} (
            sale_id STRING, seller STRING, amount DOUBLE, sold_at BIGINT,
            ts AS TO_TIMESTAMP_LTZ(sold_at / 1000, 3), WATERMARK FOR ts AS ts - INTERVAL '60' SECOND
        ) WITH (
            'connector' = 'kafka', 'topic' = '{asked["topic"]}', 'properties.bootstrap.servers' = '{asked["bootstrap"]}',
            'properties.group.id' = 'bench-{name}', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json',
            'scan.bounded.mode' = 'specific-offsets', 'scan.bounded.specific-offsets' = '{offsets(upto)}'
        )"""
    )


def query(name: str, hours: int, where: str = "") -> str:
    return f"""SELECT seller, window_end, COUNT(*) AS n, AVG(amount) AS mean,
        STDDEV_POP(amount) AS std, MIN(amount) AS low, MAX(amount) AS high,
        (MAX(amount) - MIN(amount)) / (STDDEV_POP(amount) + 1.0) AS spread
        FROM TABLE(HOP(TABLE {name}, DESCRIPTOR(ts), INTERVAL '15' MINUTE, INTERVAL '{hours}' HOUR)) {where}
        GROUP BY seller, window_start, window_end"""


for hours in (1, 3, 24):
    env.execute_sql(
        f"""CREATE TABLE out_{hours} (seller STRING, window_end TIMESTAMP(3), n BIGINT, mean DOUBLE, std DOUBLE, low DOUBLE, high DOUBLE,
        spread DOUBLE) WITH ('connector' = 'blackhole')"""
    )


def run(name: str, upto: list[int]) -> float:
    table(name, upto)
    statements = env.create_statement_set()
    for hours in (1, 3, 24):
        statements.add_insert_sql(f"INSERT INTO out_{hours} {query(name, hours)}")
    start = time.perf_counter()
    statements.execute().wait()
    return time.perf_counter() - start


out: dict[str, Any] = {"version": pyflink.version.__version__}
if asked["check"]:
    table("few", asked["small"])
    out["rows"] = {}
    for hours in (1, 3, 24):
        with env.sql_query(query("few", hours, "WHERE seller IN ('s0001', 's0002', 's0003')")).execute().collect() as found:
            out["rows"][f"{hours}h"] = [[r[0], r[1].isoformat(), *list(r)[2:]] for r in found]
run("warm_up", asked["small"])
out["small_seconds"] = run("tenth", asked["small"])
out["large_seconds"] = run("whole", asked["large"])
print(json.dumps(out))
