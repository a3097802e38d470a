"""The result for people: a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.verify.causes import added
from pipelines.verify.verify_report import CheckedStores, ComparedGroup, VerifyReport

__all__ = ["render", "stores_line"]


def render(report: VerifyReport) -> Group:
    """What was compared, per group, and what is unexplained."""
    parts: list[Any] = [Text(report.headline + ".", style="bold green" if report.proven else "bold red")]
    table = Table("feature group", box=None, pad_edge=False)
    for name in ("rows", "values", "equal", "different, by cause"):
        table.add_column(name, justify="right" if name != "different, by cause" else "left")
    for name, group in report.groups.items():
        values = group["features"].values()
        compared, equal = (sum(f[k] for f in values) for k in ("compared", "equal"))
        table.add_row(name, f"{group['rows']['compared']:,}", f"{compared:,}", f"{equal:,}", _causes(group))
    parts.append(table)
    if report.online:
        keys = sum(o["keys"] for o in report.online.values())
        parts.append(Text(f"online store: {keys:,} keys: {_named(added(o['causes'] for o in report.online.values()))}"))
    if report.stores:
        parts.append(stores_line(report.stores))
    if report.served:
        answers = sum(s["answers"] for s in report.served.values())
        parts.append(Text(f"server: {answers:,} answers: {_named(added(s['causes'] for s in report.served.values()))}"))
    for line in report.problems:
        parts.append(Text(line, style="red"))
    for line in report.notices:
        parts.append(Text(line, style="yellow"))
    parts.append(Text(f"report: {report.page}", style="dim"))
    return Group(*parts)


def stores_line(stores: Mapping[str, CheckedStores]) -> Text:
    """One line on the offline rows against the online store."""
    keys, extra = (sum(s[k] for s in stores.values()) for k in ("keys", "extra"))
    more = f", {extra:,} stored that no run has" if extra else ""
    return Text(f"offline and online: {keys:,} keys: {_named(added(s['causes'] for s in stores.values()))}{more}")


def _causes(group: ComparedGroup) -> str:
    values = _named(added(f["different"] for f in group["features"].values()), none="")
    rows = [f"{kind} rows: {_named(group['rows'][kind])}" for kind in ("missing", "extra") if group["rows"][kind]]
    return "; ".join(part for part in (values, *rows) if part) or "-"


def _named(causes: Mapping[str, int], none: str = "none") -> str:
    return ", ".join(f"{n:,} {cause}" for cause, n in causes.items()) or none
