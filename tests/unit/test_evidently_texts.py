"""What Evidently's page is given of texts that callers sent: nothing that could end the script that it writes them into."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipelines.monitoring.evidently_report import _plain

TEXTS = ["</script><script>alert(1)</script>", "<!--", "a&lt;b", "a<b", "<img src=x onerror=alert(1)>", "plain", None]


def test_texts_cannot_leave_the_script_that_they_are_written_into() -> None:
    lists = pa.array([[text] if text else None for text in TEXTS], pa.list_(pa.string()))
    made = _plain(pa.table({"origin": TEXTS, "tags": lists, "count": list(range(len(TEXTS)))}))
    assert "<" not in json.dumps([list(made["origin"]), list(made["tags"])]), "as the library writes them"
    assert made["origin"].nunique() == len(TEXTS) - 1 and list(made["count"]) == list(range(len(TEXTS)))
    assert made["origin"][5] == "plain" and made["origin"][6] is None


def test_by_the_library_itself() -> None:
    evidently = pytest.importorskip("evidently")
    from evidently.presets import DataSummaryPreset

    frame = _plain(pa.table({"origin": TEXTS[:2] * 10}))
    kinds = evidently.DataDefinition(categorical_columns=["origin"])
    sets = [evidently.Dataset.from_pandas(frame, data_definition=kinds) for _ in range(2)]
    page = evidently.Report([DataSummaryPreset()]).run(*sets).get_html_str(as_iframe=False)
    assert "alert(1)" in page and "<script>alert(1)" not in page
