"""An archive of a topic that kills itself: ``python -m tests.integration.archive_victim BOOTSTRAP TOPIC DATA STEP``.

SIGKILL comes right before the STEP-th file is renamed or state written; with STEP 0 never.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.project.config import KafkaSettings
from pipelines.replay import archive_merge, topic_archive
from pipelines.sources.kafka.kafka_client import KafkaBroker
from tests.integration.kafka_world import options_of
from transforms.definitions import EventSource, Field, hours, minutes

__all__ = ["source_of"]


def source_of(topic: str) -> EventSource:
    """Small orders."""
    return EventSource(
        name="orders", fields=[Field("id", "int64", required=True)], event_time="at", tie_breaker="id", out_of_orderness=minutes(1),
        allowed_lateness=hours(1), files="events/orders", topic=topic,
    )  # fmt: skip


def main(bootstrap: str, topic: str, data: str, step: str) -> None:
    """One call of the archive."""
    topic_archive.ROWS = 100
    archive_merge.MERGE_FROM = 3
    left = int(step)

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        return call

    os.replace = dying(os.replace)  # by which whatever is placed comes to stand under its name
    reader = KafkaBroker(options_of(bootstrap)).open_reader()
    try:
        topic_archive.archive_topic(reader, source_of(topic), KafkaSettings(), Path(data))
    finally:
        reader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
