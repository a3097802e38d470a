"""The monitor's page: verdict first, nothing fetched, everything escaped, every part can be absent."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipelines.monitoring.monitor_page import render_page, write_report
from pipelines.monitoring.monitor_report import MonitorReport
from pipelines.reports import charts

EVIL = "<script>alert(1)</script>&\"'"


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def check(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert "script" not in parser.seen and not re.search(r"(src|href)=|https?://|url\(|@import", html)
    return parser


def nothing() -> dict[str, Any]:
    return {
        "verdict": "warn", "headline": "Nothing could be checked", "model": "slow", "version": None, "versions": {}, "training_set": None,
        "window": None, "before": None, "rows": 0, "rows_before": 0, "checks": [], "features": {}, "views": {}, "prediction": None,
        "labels": None, "quality": None, "recomputed": {}, "days": [], "chance": None, "lineage": None, "notices": [], "settings": {},
    }  # fmt: skip


def full() -> dict[str, Any]:
    number = {
        "kind": "number", "nulls": {"trained": 0.0, "served": 0.25}, "edges": [0.0, 1.0, 2.0], "trained": [0.5, 0.5], "served": [0.1, 0.9],
        "before": [0.4, 0.6], "median": {"trained": 1.0, "served": 60.0, "before": None}, "served_range": [0.0, 3600.0], "skew": 0.9,
        "skew_threshold": 0.2, "skew_status": "fail", "suspect": "looks like seconds for minutes",
    }  # fmt: skip
    text = {
        "kind": "text", "nulls": {"trained": 0.0, "served": 0.0}, "values": ["s", EVIL], "trained": [1.0, 0.0], "served": [0.5, 0.5],
        "before": [1.0, 0.0], "distinct": 2, "skew": 0.05, "skew_threshold": 0.2, "skew_status": "ok", "drift": 0.1, "drift_threshold": 0.2,
        "drift_status": "ok",
    }  # fmt: skip
    checks = [
        {"name": "skew", "feature": "delay", "value": 0.9, "threshold": 0.2, "status": "fail", "detail": EVIL},
        {"name": "drift", "feature": "", "value": None, "threshold": None, "status": "skipped", "detail": "too few"},
        {"name": "nulls", "feature": "size", "value": 0.0, "threshold": 0.1, "status": "ok", "detail": ""},
    ]
    quality = {
        "rows": 300, "mean": 0.3, "rate": 0.4, "auc": None, "log_loss": 0.6,
        "report": {"rows": 900, "mean": 0.3, "rate": 0.3, "auc": 0.8, "log_loss": 0.5},
        "reliability": [{"rows": 30, "mean": 0.2, "rate": 0.3}, {"rows": 30, "mean": 0.6, "rate": 0.9}],
        "report_reliability": [{"rows": 30, "mean": 0.2, "rate": 0.2}], "chance": {"gap": 0.1, "auc": 0.02, "log_loss": 0.03},
        "chance_from": "5 windows",
    }  # fmt: skip
    ages = {"p50": 60.0, "p95": 90.0, "p100": 95.0}
    view = {"ttl_s": 7200.0, "statuses": {"PRESENT": 9}, "age_s": ages, "ages": [9, 0, 1], "age_step_s": 3600}
    window = ["2024-05-01T00:00:00+00:00", "2024-05-02T00:00:00+00:00"]
    sample = {
        "request": EVIL, "row": 0, "as_of": "2024-05-01T00:00:00+00:00", "keys": {"depot": EVIL}, "kind": "mismatch", "cause": "real bug",
        "feature": "count", "served": 3, "expected": 2,
    }  # fmt: skip
    served = {
        "answers": 10, "values": 20, "kinds": {"equal": 9, "mismatch": 1}, "causes": {"mismatch": {"real bug": 1}}, "features": {},
        "behind_s": {}, "samples": [sample],
    }  # fmt: skip
    return nothing() | {
        "verdict": "fail", "headline": EVIL, "model": EVIL, "version": 3, "window": window,
        "rows": 10, "checks": checks, "features": {"delay": number, EVIL: text, "tandem_prediction": number}, "views": {"load": view},
        "quality": quality, "recomputed": {"load": served}, "chance": {"windows": 5, "text": "5 windows"}, "notices": [EVIL],
        "days": [{"day": "2024-05-01", "rows": 10, "skew": {"delay": 0.9}}, {"day": "2024-05-02", "rows": 2, "skew": {}}],
        "labels": {"labelled": 5, "waiting": 0, "ambiguous": 0, "unmatched": 0, "tolerance_hours": 24.0},
    }  # fmt: skip


def test_a_page_of_everything_is_whole_and_escaped() -> None:
    html = render_page(MonitorReport.of(full()))
    check(html)
    assert "alert(1)" in html and "<script" not in html
    assert html.index("Something drifted or broke") < html.index("Findings") < html.index("Drift by day") < html.index("All checks")
    assert "looks like seconds for minutes" in html and "real bug" in html and 'name="viewport"' in html


def test_a_page_of_nothing_is_whole() -> None:
    html = render_page(MonitorReport.of(nothing()))
    check(html)
    assert "Nothing could be checked" in html and "Drift by day" not in html


@pytest.mark.parametrize("part", [k for k, v in full().items() if v != nothing()[k] and k not in ("verdict", "headline", "model")])
def test_every_part_can_be_absent(part: str) -> None:
    check(render_page(MonitorReport.of(full() | {part: nothing()[part]})))


def test_an_axis_of_ages_is_labelled_with_and_without_a_ttl() -> None:
    page = re.sub(r"\s+", " ", render_page(MonitorReport.of(full() | {"views": {"load": full()["views"]["load"] | {"ttl_s": None}}})))
    assert "<span>0</span><span>1.5 h</span><span>over 2 h</span>" in page


def test_the_report_appears_whole(tmp_path: Path) -> None:
    page = write_report(MonitorReport.of(full() | {"folder": str(tmp_path / "a" / "b")}))
    assert page.name == "report.html" and sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json"]


def test_pairs_share_one_scale() -> None:
    html = charts.pairs([0.5, 0.0], [0.25, 1.0], ["a", "b"], ["a", "b"])
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', html)]
    assert heights == [50.0, 25.0, 100.0]  # a share of nothing draws nothing
    assert "a: 50.00%, 25.00%" in html


def test_heat_is_the_value() -> None:
    html = charts.heat(["mon", "tue"], [["x", 0.5, None]])
    assert "--heat:50%" in html and html.count("<td") == 2 and 'class="none"' in html


def test_a_curve_stays_in_its_square() -> None:
    html = charts.curve([("now", "c-equal", [(0.05, 0.1), (0.3, 0.4)])], "x", "y")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]*)"', html)[0].split()]
    assert all(0 <= v <= 100 for p in points for v in p) and points[1] == (75.0, 0.0)  # from 0 to 0.4
