"""How far ahead an event may lie is one number, minutes, for files and topics: what a stream refuses, a batch run does not take."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest

from pipelines.project.config import BatchSettings, StreamSettings
from tests.oracle.strategies import make_source
from transforms.contract import check_json

NOW = 1_700_000_000_000_000
SOURCE = make_source()


def record(at: int) -> bytes:
    return b'{"origin":"a","gate":1,"flight":"f","serial":1,"departed_at":%d}' % at


@pytest.mark.parametrize(
    "ahead", [timedelta(minutes=-1), timedelta(minutes=5), timedelta(minutes=7), timedelta(hours=9), timedelta(hours=23)]
)
def test_a_file_and_a_topic_have_one_verdict_by_default(ahead: timedelta) -> None:
    """FAULTS 2: a local clock's time sent as UTC lies hours ahead."""
    limits = [round(s.max_future_hours * 3.6e9) for s in (BatchSettings(), StreamSettings())]
    payload = record(NOW + round(ahead.total_seconds() * 1e6))
    in_topic = check_json(pa.array([payload], pa.binary()), SOURCE, NOW, limits[1])
    in_file = check_json(pa.array([payload], pa.binary()), SOURCE, NOW, limits[0])
    said = [c.reasons.to_pylist() for c in (in_file, in_topic)]
    assert said[0] == said[1] == [None if ahead < timedelta(minutes=6) else "future_timestamp"]
