"""Moments as people and options have them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pipelines.project.config import moment
from transforms.instants import as_option

AT = datetime(2024, 5, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (AT, "2024-05-11"),
        (AT + timedelta(minutes=1), "2024-05-11T00:01"),
        (AT + timedelta(hours=23, seconds=7), "2024-05-11T23:00:07"),
        (AT + timedelta(microseconds=1), "2024-05-11T00:00:00.000001"),
        (AT.replace(tzinfo=timezone(timedelta(hours=2))), "2024-05-10T22:00"),
    ],
)
def test_a_moment_is_told_as_options_take_it_and_loses_nothing(at, text):
    assert as_option(at) == text
    assert moment("--end", text, None) == at
