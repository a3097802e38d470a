"""``tandem materialize`` names the ``tandem serve`` that its rows are for, where they are of the past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.cli.batch import of_the_past

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("end", "option"),
    [
        (datetime(2024, 5, 11, 0, 1, tzinfo=UTC), "2024-05-11T00:01"),
        (datetime(2024, 5, 11, tzinfo=UTC), "2024-05-11"),
        (NOW - timedelta(days=1, seconds=1), "2026-05-09T11:59:59"),
    ],
)
def test_the_end_of_the_rows_is_what_serve_is_given(end: datetime, option: str) -> None:
    assert of_the_past(end, NOW) == f"these rows are of the past: to serve them as of then, tandem serve --as-of {option}"


@pytest.mark.parametrize("end", [NOW, NOW - timedelta(days=1), NOW + timedelta(days=9)])
def test_rows_of_now_need_no_word(end: datetime) -> None:
    assert of_the_past(end, NOW) == ""
