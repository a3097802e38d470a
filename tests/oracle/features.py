"""Feature rows by brute force: for every key and every boundary, look at the events in the window and compute."""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.oracle.expressions import true
from transforms.definitions import Aggregate, FeatureGroup, Predicate
from transforms.expressions import Formula

Event = dict[str, Any]
"""Field name -> value; the event time (and any timestamp field) is an int of microseconds; null is None or absent."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows(events: Iterable[Event], group: FeatureGroup, after_us: int, upto_us: int) -> list[dict[str, Any]]:
    """All feature rows of ``group`` with a boundary ``after_us < T <= upto_us``, sorted by keys, then event timestamp.

    A row is a dict with the columns of ``group.row_schema`` in their order, ``event_timestamp`` in microseconds.
    """
    source = group.source
    clean = [{name: plain(event.get(name)) for name in [source.event_time, *(f.name for f in source.fields)]} for event in events]
    by_key: dict[tuple[Any, ...], list[Event]] = {}
    for event in clean:
        instead = group.null_keys if isinstance(group.null_keys, dict) else {}
        key = tuple(instead.get(k) if event[k] is None else event[k] for k in group.entity.keys)
        if None not in key:
            by_key.setdefault(key, []).append(event)

    out = []
    for key in sorted(by_key, key=lambda values: [order(v) for v in values]):
        mine = sorted(by_key[key], key=lambda e: e[source.event_time])
        times = [e[source.event_time] for e in mine]
        for boundary in sorted(boundaries(times, group)):
            if not after_us < boundary <= upto_us:
                continue

            def window(over: int, boundary: int = boundary, mine: list[Event] = mine, times: list[int] = times) -> list[Event]:
                return mine[bisect_left(times, boundary - over) : bisect_left(times, boundary)]

            row = dict(zip(group.entity.keys, key, strict=True))
            row["event_timestamp"] = boundary + group.delay_us
            for feature in group.features:
                row[feature.name] = aggregate(feature.aggregate, window(feature.over), group, boundary)
            row["tandem_revision"] = len(window(group.longest_us))
            out.append(row)
    return out


def boundaries(times: Iterable[int], group: FeatureGroup) -> set[int]:
    """Where some window's content changes: an event enters at the end of its hop, and falls out a window later."""
    hop = group.hop_us
    overs = {feature.over for feature in group.features}
    found = set()
    for time in times:
        enters = (time // hop + 1) * hop
        found.add(enters)
        for over in overs:
            found.add(enters + over)
    return found


def plain(value: Any) -> Any:
    """-0.0 counts as 0.0; datetimes become microseconds; everything else is what it is."""
    if isinstance(value, float):
        return 0.0 if value == 0.0 else value
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    return value


def order(value: Any) -> Any:
    """What to sort a value by: strings by their UTF-8 bytes, False before True, numbers by size."""
    if isinstance(value, str):
        return value.encode("utf-8")
    return value


# ------------------------------------------------------------------------------------------------------------- filters


def passes(event: Event, where: Predicate | Formula | None, types: dict[str, str]) -> bool:
    """Whether an event passes a filter. A comparison with null is false; in an expression it is null, which is not true."""
    if where is None:
        return True
    if isinstance(where, Formula):
        return true(where, event, types)
    if where.op == "and":
        return passes(event, where.args[0], types) and passes(event, where.args[1], types)
    if where.op == "or":
        return passes(event, where.args[0], types) or passes(event, where.args[1], types)
    if where.op == "not":
        return not passes(event, where.args[0], types)
    value = event[where.args[0]]
    if where.op == "is_null":
        return value is None
    if value is None:
        return False
    if where.op == "isin":
        return any(value == plain(other) for other in where.args[1])
    left, right = order(value), order(plain(where.args[1]))
    if where.op == "==":
        return bool(left == right)
    if where.op == "!=":
        return bool(left != right)
    if where.op == ">":
        return bool(left > right)
    if where.op == ">=":
        return bool(left >= right)
    if where.op == "<":
        return bool(left < right)
    if where.op == "<=":
        return bool(left <= right)
    raise AssertionError(f"the oracle knows no filter {where.op!r}")


# ---------------------------------------------------------------------------------------------------------- aggregates


def aggregate(what: Aggregate, window: list[Event], group: FeatureGroup, boundary: int) -> Any:
    """One aggregate over the events of one window."""
    kind = what.kind
    types = {f.name: str(f.dtype) for f in group.source.all_fields}
    events = [e for e in window if passes(e, what.filter, types)]
    if kind == "count":
        return len(events)
    if kind == "age":
        if not events:
            return None
        return float(boundary - max(e[group.source.event_time] for e in events)) / 1e6

    column = what.column
    assert column is not None, f"{kind} takes a column"
    events = [e for e in events if e[column] is not None]
    values = [e[column] for e in events]
    if kind in ("first", "last", "last_n"):
        in_order = sorted(events, key=lambda e: (e[group.source.event_time], order(e[group.source.tie_breaker]), order(e[column])))
        ordered = [e[column] for e in in_order]
        if kind == "last_n":
            return ordered[::-1][: what.n]  # type: ignore[attr-defined]
        if not ordered:
            return None
        return ordered[0] if kind == "first" else ordered[-1]
    if kind == "top_k":
        return top_k(values, what.k)  # type: ignore[attr-defined]
    if kind == "count_distinct":
        return count_distinct(values, what.precision)  # type: ignore[attr-defined]
    if not values:
        return None
    if kind == "quantile":
        return quantile(values, what.q)  # type: ignore[attr-defined]
    simple: dict[str, Callable[[list[Any]], Any]] = {
        "sum": total,
        "mean": mean,
        "variance": variance,
        "std": std,
        "min": min,
        "max": max,
    }
    return simple[kind](values)


def nearest(exact: Fraction) -> float:
    """The float64 nearest to an exact number, ties to even; infinite beyond the range of float64."""
    try:
        return float(exact)  # Fraction -> float divides two whole numbers, which Python rounds correctly, subnormals included
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def total(values: list[Any]) -> float:
    """The exact sum, rounded once."""
    return nearest(sum((Fraction(v) for v in values), Fraction(0)))


def mean(values: list[Any]) -> float:
    """The rounded sum over the number of values."""
    return total(values) / float(len(values))


def variance(values: list[Any]) -> float:
    """``n * sum(x^2) - sum(x)^2`` exactly, rounded, over ``n^2``."""
    n = len(values)
    exact = [Fraction(v) for v in values]
    numerator = n * sum((x * x for x in exact), Fraction(0)) - sum(exact, Fraction(0)) ** 2
    return nearest(numerator) / float(n * n)


def std(values: list[Any]) -> float:
    """The square root of the variance."""
    return math.sqrt(variance(values))


def top_k(values: list[Any], k: int) -> list[Any]:
    """The k values that occur most often; of those that occur equally often, the smaller ones first."""
    often: dict[Any, int] = {}
    for value in values:
        often[value] = often.get(value, 0) + 1
    return sorted(often, key=lambda value: (-often[value], order(value)))[:k]


# ------------------------------------------------------------------------------------------------------------ sketches

MASK = (1 << 64) - 1


def mix(x: int) -> int:
    """One step of splitmix64: a bijection of 64-bit words."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hash64(value: str | int | float) -> int:
    """The 64-bit hash of a value: its length, then its little-endian words, mixed one after the other."""
    if isinstance(value, str):
        data = value.encode("utf-8")
    elif isinstance(value, float):
        data = struct.pack("<d", value)
    else:
        data = struct.pack("<q", value)
    h = mix(len(data))
    for start in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little"))
    return h


EXACT = 256


def count_distinct(values: list[Any], p: int) -> int:
    """The number of distinct hashes while it is at most EXACT, else HyperLogLog's estimate."""
    different = len({hash64(value) for value in values})
    return different if different <= EXACT else hyperloglog(values, p)


def hyperloglog(values: list[Any], p: int) -> int:
    """HyperLogLog with 2^p registers and Ertl's improved raw estimator (arXiv:1702.01284, algorithm 6)."""
    if not values:
        return 0
    m, q = 1 << p, 64 - p
    registers = [0] * m
    for value in values:
        h = hash64(value)
        index, rest = h >> q, h & ((1 << q) - 1)
        leading_zeros = q - rest.bit_length()
        registers[index] = max(registers[index], 1 + leading_zeros)
    counts = [0] * (q + 2)
    for register in registers:
        counts[register] += 1
    z = m * tau(1 - counts[q + 1] / m)
    for k in range(q, 0, -1):
        z = 0.5 * (z + counts[k])
    z = z + m * sigma(counts[0] / m)
    alpha = 1 / (2 * math.log(2))
    return math.floor((alpha * m) * m / z + 0.5)


def sigma(x: float) -> float:
    """``x + sum over k >= 1 of x^(2^k) * 2^(k-1)``."""
    if x == 1:
        return math.inf
    y, z = 1.0, x
    while True:
        x = x * x
        before = z
        z = z + x * y
        y = 2 * y
        if z == before:
            return z


def tau(x: float) -> float:
    """``(1 - x - sum over k >= 1 of (1 - x^(2^-k))^2 * 2^-k) / 3``."""
    if x in (0, 1):
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = z
        y = 0.5 * y
        z = z - ((1 - x) * (1 - x)) * y
        if z == before:
            return z / 3


def quantile(values: list[Any], q: float) -> float:
    """The midpoint of the bucket that holds the value of the nearest rank; the bucket of zero is zero."""
    in_order = sorted(float(v) for v in values)
    rank = max(1, math.ceil(q * float(len(values))))
    return bucket_middle(in_order[rank - 1])


def bucket_middle(x: float) -> float:
    """The middle of the bucket of ``x``: sign, exponent and seven bits of the mantissa, then a one, then zeros.
    The bucket of +0.0 is 0.0 as a whole; its negative neighbour has a middle like any other."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", 0.0 if x == 0.0 else x))
    bucket = bits >> 45
    if bucket == 0:
        return 0.0
    (middle,) = struct.unpack("<d", struct.pack("<Q", bucket << 45 | 1 << 44))
    return float(middle)
