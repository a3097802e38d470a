"""What says how the records of a topic are read beside their source's definition, to compare with that of another time."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.lake.files import json_digest, sha256
from pipelines.project.config import KafkaSettings

__all__ = ["reading_of"]


def reading_of(source: str, kafka: KafkaSettings) -> dict[str, str]:
    """Of a source (its name) the ``format``, and ``options``: a hash of the format's settings and of the files that they name. The settings
    may be secrets, and are not in it."""
    options = kafka.format_options.get(source, {})
    named = [kafka.repository / str(value) for _, value in sorted(options.items()) if isinstance(value, (str, Path)) and value]
    return {
        "format": kafka.format_of(source),
        "options": json_digest([json.loads(json.dumps(options, default=str)), [sha256(p) for p in named if p.is_file()]]),
    }
