"""Rows that wait for the online store while others of their keys may follow at once: of a stream that is behind, each key's last row is
written, and those that it would replace a moment later are not."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

__all__ = ["HeldRows"]

MOST_ROWS = 200_000
"""Held of a shard: what they take in memory is bounded."""


class HeldRows:
    """Of every shard and group, in the order in which they came. Each shard is used by one thread at a time."""

    def __init__(self, decisive: Callable[[str, pa.RecordBatch], pa.RecordBatch]) -> None:
        """``decisive``: group and rows -> those of them that the store has to decide about."""
        self._decisive = decisive
        self._held: dict[int, dict[str, list[pa.RecordBatch]]] = {}

    def add(self, shard: int, group: str, rows: pa.RecordBatch) -> int:
        """Hold rows; how many of them need not be, as another of their key follows among them."""
        kept = self._decisive(group, rows)
        self._held.setdefault(shard, {}).setdefault(group, []).append(kept)
        return int(rows.num_rows - kept.num_rows)

    def of(self, shard: int, group: str) -> bool:
        """Whether rows of a group wait."""
        return bool(self._held.get(shard, {}).get(group))

    def any(self, shard: int) -> bool:
        """Whether rows of a shard wait."""
        return bool(self._held.get(shard))

    def full(self, shard: int) -> bool:
        """Whether no more should wait."""
        rows: int = sum(batch.num_rows for some in self._held.get(shard, {}).values() for batch in some)
        return rows >= MOST_ROWS

    def shards(self) -> list[int]:
        """Those with rows that wait."""
        return [shard for shard, groups in self._held.items() if groups]

    def first(self, shard: int) -> tuple[str, pa.RecordBatch | pa.Table] | None:
        """A group's rows, all that wait; None if none do. They wait until :meth:`done`."""
        for group, batches in self._held.get(shard, {}).items():
            return group, batches[0] if len(batches) == 1 else pa.Table.from_batches(batches)
        return None

    def done(self, shard: int, group: str) -> None:
        """They are written."""
        del self._held[shard][group]
