"""What it costs to read records as they are: other names, objects in objects, computed columns, filters; beside the same data flat under
the fields' own names. CPU time of decoding and judging, interleaved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.json import ReadOptions, read_json

from tests.bench.report import Part, best_of
from transforms.contract import check_json
from transforms.definitions import Epoch, EventSource, Field, col
from transforms.expressions import formula_of

RECORDS = 20_000
NOW = 1_700_000_000_000_000
NAMES = ("sale_id", "seller", "country", "amount", "items", "gift")
DTYPES: Any = ("string", "string", "string", "float64", "int64", "bool")
OTHER = ("saleId", "sellerName", "countryCode", "amountDue", "itemCount", "isGift")
NESTED = ("saleId", "seller.name", "seller.country", "order.amount", "order.items", "order.isGift")
FLAT = EventSource(
    "sales", [Field(n, d, required=n == "sale_id") for n, d in zip(NAMES, DTYPES, strict=True)], event_time="sold_at", tie_breaker="sale_id"
)


def _named(paths: tuple[str, ...]) -> EventSource:
    fields = [replace(f, path=path) for f, path in zip(FLAT.fields, paths, strict=True)]
    when: Any = Field("sold_at", "timestamp", path="ts", parse=Epoch("ms"))
    return replace(FLAT, fields=fields, event_time=when)


def _rows(n: int) -> list[tuple[Any, ...]]:
    r = np.random.default_rng(0)
    ids, sellers = [f"sale-{i:08d}" for i in range(n)], [f"s{i:04d}" for i in r.integers(0, 5000, n)]
    amounts = [round(float(a), 2) for a in r.gamma(2, 30, n)]
    countries, items, gifts = r.choice(["NO", "SE"], n).tolist(), r.integers(0, 30, n).tolist(), (r.random(n) < 0.1).tolist()
    return list(zip(ids, sellers, countries, amounts, items, gifts, strict=True))


def _payloads(rows: list[tuple[Any, ...]], paths: tuple[str, ...], when: str, width: int = 0) -> pa.Array:
    """JSON objects; ``width``: all as long as that, by a member that nobody reads."""
    out = []
    for at, row in enumerate(rows):
        us = NOW - 1_000_000 * (at + 1)
        record: dict[str, Any] = {when: us if when == "sold_at" else us // 1000}
        for path, value in zip(paths, row, strict=True):
            *into, last = path.split(".")
            node = record
            for name in into:
                node = node.setdefault(name, {})
            node[last] = value
        text = json.dumps(record, separators=(",", ":")).encode()
        out.append(text[:-1] + b',"pad":"%s"}' % (b"x" * max(0, width - len(text) - 9)) if width else text)
    return pa.array(out, pa.binary())


def _arrow(payloads: pa.Array) -> pa.Table:
    """Columns of whatever is there: no types asked for, no verdict, one bad record fails all."""
    read = read_json(pa.BufferReader(b"\n".join(payloads.to_pylist())), ReadOptions(use_threads=False, block_size=1 << 26))
    if read.num_rows != len(payloads):
        raise ValueError(f"{read.num_rows} of {len(payloads)} records were read")
    return read


def _judging(n: int, quick: bool) -> Part:
    rows = _rows(n)
    nested = _payloads(rows, NESTED, "ts")
    width = max(len(p) for p in nested.to_pylist())
    flat = _payloads(rows, NAMES, "sold_at", width)  # as many bytes as the nested ones have
    computed = [*FLAT.fields, Field("net", "float64", value=col("amount") / 1.25 - col("items"))]
    tried: dict[str, tuple[EventSource, pa.Array]] = {
        "flat, under the fields' own names": (FLAT, flat),
        "other names, epoch ms": (_named(OTHER), _payloads(rows, OTHER, "ts", width)),
        "objects in objects, epoch ms": (_named(NESTED), nested),
        "a computed column": (replace(FLAT, fields=computed), flat),
        "where, of which half are not taken": (replace(FLAT, where=col("country") == "NO"), flat),
    }
    ways: dict[str, Callable[[], Any]] = {}
    for name, (source, payloads) in tried.items():
        ways[name] = partial(check_json, payloads, source, NOW, 0)
        assert ways[name]().reasons.null_count == n
    ways["Arrow's JSON reader alone, flat"] = partial(_arrow, flat)
    ways["Arrow's JSON reader alone, objects in objects"] = partial(_arrow, nested)
    rounds = 5 if quick else 15
    part = Part(f"Reading {n:,} JSON records of seven fields and {width} bytes", "records", f"warm; CPU, {rounds} rounds in turn")
    for name, seconds in best_of(rounds, ways, time.process_time).items():
        part.add(name, seconds, n)
    part.notes.append("the goal: nothing where names are the fields' own, under 1.2 where others; Arrow's reader is the limit of all")
    return part


def _filters(n: int, quick: bool) -> Part:
    batch = check_json(_payloads(_rows(n), NAMES, "sold_at"), FLAT, NOW, 0).valid
    filters: dict[str, Any] = {
        'Field("amount") > 60': Field("amount") > 60, 'col("amount") > 60': col("amount") > 60,
        'col("amount") > col("items")': col("amount") > col("items"),
        'col("amount") / 2 > 30': col("amount") / 2 > 30, 'col("country") == "NO"': col("country") == "NO",
        '(col("amount") > 60) & col("gift")': (col("amount") > 60) & col("gift").is_true(),
    }  # fmt: skip
    masks: dict[str, Callable[[], Any]] = {name: partial(formula_of(f).mask, batch) for name, f in filters.items()}
    rounds = 20 if quick else 200
    part = Part(f"Filters of aggregates over {n:,} events", "events", f"warm; CPU, {rounds} rounds in turn")
    for name, seconds in best_of(rounds, masks, time.process_time).items():
        part.add(name, seconds, n)
    return part


def run(quick: bool = False) -> list[Part]:
    """Two parts: reading, and filters."""
    n = RECORDS
    return [_judging(n, quick), _filters(n, quick)]
