"""What a training set and an online store must hold, by brute force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def point_in_time_join(spine: Iterable[Row], rows: Iterable[Row], ttl_us: int | None, keys: Sequence[str]) -> list[Row | None]:
    """For every spine row, in order, the newest feature row of its keys that was known by then; None where there is none.

    A feature row counts if ``spine time - ttl_us <= event_timestamp <= spine time`` (both ends included, as in Feast; no
    TTL or a TTL of zero: no lower end); one whose windows are all empty (``tandem_revision`` 0) has no lower end either.
    Of several with the same event timestamp the one created last wins.
    All times (``event_timestamp``, ``created_timestamp``) are microseconds.
    """
    features = list(rows)
    out: list[Row | None] = []
    for asked in spine:
        found: Row | None = None
        for row in features:
            if any(row[k] != asked[k] for k in keys) or row["event_timestamp"] > asked["event_timestamp"]:
                continue
            if found is None or _age(row) > _age(found):
                found = row
        if found is not None and ttl_us and found.get("tandem_revision") != 0:
            found = found if found["event_timestamp"] >= asked["event_timestamp"] - ttl_us else None
        out.append(found)
    return out


def _age(row: Row) -> tuple[int, int]:
    return row["event_timestamp"], row.get("created_timestamp", 0)


def newest(rows: Iterable[Row], now_us: int, keys: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """Per key the row that an online store must hold at ``now_us``: the greatest (event_timestamp, revision) by then."""
    held: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["event_timestamp"] > now_us:
            continue
        key = tuple(row[k] for k in keys)
        stored = held.get(key)
        if stored is None or _rank(row) > _rank(stored):
            held[key] = row
    return held


def _rank(row: Row) -> tuple[int, int]:
    return row["event_timestamp"], row["tandem_revision"]
