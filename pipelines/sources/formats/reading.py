"""The settings by which the records of a topic are read, beside their source's definition, to compare with those of another time."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.lake.data_files import json_digest, sha256
from pipelines.project.config import KafkaSettings
from serving.masking import masked

__all__ = ["reading_of"]


def reading_of(source: str, kafka: KafkaSettings) -> dict[str, str]:
    """Of a source (its name) the ``format``, and ``options``: a hash of the format's settings and of the files that they name. What is
    called like a secret, and passwords in addresses, are left out of it, as from all that is recorded: such settings do not decide how
    records are read, and a hash of a short secret can be guessed."""
    options = masked(json.loads(json.dumps(kafka.format_options.get(source, {}), default=str)))
    texts = [value for _, value in sorted(options.items()) if isinstance(value, str) and value]
    hashes = [sha256(kafka.repository / text) for text in texts if _names_file(kafka.repository / text)]
    return {"format": kafka.format_of(source), "options": json_digest([options, hashes])}


def _names_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        return False
