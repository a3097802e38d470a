"""Which times the event files hold, for the watch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from pipelines.watch.event_span import event_span
from transforms.definitions import EventSource, Field

SOURCE = EventSource(
    name="orders", fields=[Field("order_id", "string", required=True)], event_time="at", tie_breaker="order_id", files="events/orders"
)
TIMES = ["2024-05-01T08:00:00Z", "2024-05-03T09:30:00Z"]


def test_a_span_that_cannot_be_kept_is_found_all_the_same(tmp_path: Path) -> None:
    """``tandem watch status`` over a read-only data folder ended with an error, though it only looks."""
    folder = tmp_path / "events" / "orders"
    folder.mkdir(parents=True)
    (folder / "o.jsonl").write_text("".join(json.dumps({"order_id": str(i), "at": at}) + "\n" for i, at in enumerate(TIMES)))
    (tmp_path / "watch").write_text("where the folder would be")
    span = event_span(tmp_path, SOURCE, datetime(2025, 1, 1, tzinfo=UTC))
    assert span == tuple(datetime.fromisoformat(at) for at in TIMES)
