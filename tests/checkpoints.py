"""What tests read of a stream's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.streaming.state.checkpoint_records import Checkpoint

__all__ = ["least_boundary"]


def least_boundary(checkpoints: Iterable[Checkpoint], group: str) -> int:
    """The boundary up to which all shards have given out rows of a group; each of them has given out some."""
    boundaries = [point["output_watermark"][group] for point in checkpoints]
    given = [at for at in boundaries if at is not None]
    assert len(given) == len(boundaries), f"{group}: shards without a boundary: {boundaries}"
    return min(given)
