"""Contract suites that ship: what an aggregate, a store, a format, a broker, an engine or a tracker of another package must hold.

Each module has a class to subclass in one's own tests and fixtures to override; they need pytest (and hypothesis, for aggregates).
"""

import pytest

_SUITES = (
    "aggregates",
    "alert_receiver",
    "broker",
    "deletion",
    "engine",
    "file_formats",
    "formats",
    "materialization",
    "memory",
    "object_store",
    "online_store",
    "packed_rows",
    "store_bench",
    "tables",
    "tracker",
)
pytest.register_assert_rewrite(*(f"tandem.testing.{name}" for name in _SUITES))
