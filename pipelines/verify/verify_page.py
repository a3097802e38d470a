"""The result as a page: what ``reports/templates/verify.html`` shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.reports.charts import time_ticks
from pipelines.reports.page import Table, Tile, code_text, moment, render, save, span, table
from pipelines.verify.causes import added
from pipelines.verify.verify_report import (
    CheckedKeys,
    CheckedStores,
    ComparedGroup,
    RowsOverTime,
    ServedAnswers,
    SourceEvents,
    VerifyReport,
)

__all__ = ["render_page", "view", "write_report"]

NONE = "-"
CAUSE_TEXTS = {
    "too late": "Events came after the allowed lateness, so the stream left them out and wrote them down. Proven: each was too late by the"
    " order of its partition, and the row recomputed without exactly these events is the stream's to the bit.",
    "behind an idle partition": "Events were in time in their partition, but that had been idle and the others had gone on. Proven as"
    " above, except that the log cannot tell that the partition was idle.",
    "in flight": "The stream had not come that far when it was looked at: the row was not due, events were not read yet, or rows that were"
    " made had not come to the online store.",
    "other fingerprint": "The row was made by another transform graph. Proven: that graph over the recomputed row gives the stream's.",
    "vacuumed": "`tandem vacuum` took rows of this time from the stream's log: what it delivered then cannot be compared any more.",
    "late data": "The server answered with the row that was due, and right: the revision that corrected it was made after the answer.",
    "ahead of the clock": "The row is right, but its event timestamp is after the server's time of the request.",
    "materialized": "The store holds a row that batch has too and the stream did not deliver: it was materialized.",
    "outside the run": "The store holds, or the server answered, what the stream delivered, of a time that the batch run does not have"
    " (--against), and the run has no newer row that was due.",
    "earlier stream": "The server answered what a stream of this name delivered before this one began anew: what made it differ from batch"
    " was that stream's to prove.",
    "a stream is further": "The store holds a row of a stream, made after the end of what was materialized.",
    "not materialized": "A batch run has a newer row, or one of before, that was not materialized.",
    "unexplained": "Nothing that is on record explains it. This is a defect.",
}


def write_report(report: VerifyReport) -> Path:
    """Write ``report.json`` and ``report.html`` to the report's folder; the path of the page."""
    return save(report, render_page(report), Path(report.folder))


def render_page(report: VerifyReport) -> str:
    """The page."""
    return render("verify.html", view(report))


def view(report: VerifyReport) -> dict[str, Any]:
    """What the page shows, a name for each of its parts; a part that is empty is left out of the page."""
    return {
        "title": f"Tandem: {'proven' if report.proven else 'NOT proven'}, {report.stream['name']}",
        "stream": report.stream["name"],
        "started": moment(report.started),
        "good": report.proven,
        "verdict": _verdict(report),
        "headline": report.headline,
        "tiles": _tiles(report),
        "problems": report.problems,
        "notices": report.notices,
        "time": _over_time(report.time),
        "groups": [_group(name, g) for name, g in report.groups.items()],
        "sources": [_source(name, s) for name, s in report.sources.items() if s["events"]],
        "revisions": _revisions(report.groups),
        "online": _online(report.online),
        "stores": _online(report.stores),
        "served": _served(report.served),
        "samples": _samples(report.groups),
        "causes": _causes(report),
        "provenance": _provenance(report),
        "command": report.command,
    }


def _verdict(report: VerifyReport) -> str:
    if not report.proven:
        return "✗ Not proven"
    return "✓ Proven: every difference has its cause" if report.values.get("different") else "✓ Proven: equal to the bit"


def _named(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {cause}" for cause, n in causes.items() if cause != "equal") or NONE


def _tiles(report: VerifyReport) -> list[Tile]:
    values, unexplained = report.values, report.unexplained
    named = sum(n for c, n in values.get("different", {}).items() if c != "unexplained")
    tiles = [("values compared", values.get("compared", 0)), ("equal to the bit", values.get("equal", 0))]
    tiles += [("different, cause proven", named), ("rows compared", report.rows.get("compared", 0))]
    if report.online:
        tiles.append(("keys in the online store", sum(o["keys"] for o in report.online.values())))
    if report.served:
        tiles.append(("answers of the server", sum(s["answers"] for s in report.served.values())))
    drawn = [Tile(f"{n:,}", text) for text, n in tiles]
    drawn[3:3] = [Tile(f"{n:,}", f"unexplained {kind}", "bad") for kind, n in _kinds(report)] or [
        Tile(f"{unexplained:,}", "unexplained: see below", "bad") if unexplained else Tile("0", "unexplained")
    ]
    return drawn


def _kinds(report: VerifyReport) -> list[tuple[str, int]]:
    """How many are unexplained, of each kind by itself: values, rows, keys and answers have no common sum."""
    rows, values = report.rows, report.values
    found = {
        "values": values.get("different", {}),
        "rows missing": rows.get("missing", {}),
        "rows extra": rows.get("extra", {}),
        "keys online": added([o["causes"] for o in report.online.values()]),
        "answers": added([s["causes"] for s in report.served.values()]),
    }
    return [(kind, causes["unexplained"]) for kind, causes in found.items() if causes.get("unexplained")]


def _over_time(time: RowsOverTime) -> dict[str, Any] | None:
    if (first := time.get("start")) is None:
        return None
    start, step = datetime.fromisoformat(first), timedelta(seconds=time["step_s"])
    n = len(time["equal"])
    series = [("equal", "c-equal", time["equal"]), ("explained", "c-explained", time["explained"])]
    series += [("not due yet", "c-flight", time["in_flight"]), ("unexplained", "c-bad", time["unexplained"])]
    return {
        "step": {3600: "hour", 86400: "day", 604800: "week"}.get(time["step_s"], f"{time['step_s'] // 3600} hours"),
        "series": series,
        "odd": [s for s in series[1:] if any(s[2])],
        "labels": [f"{start + step * i:%Y-%m-%d %H:%M}" for i in range(n)],
        "ticks": time_ticks(start, start + step * n),
        "span": f"{moment(first)} to {moment((start + step * n).isoformat())}",
    }


def _group(name: str, g: ComparedGroup) -> dict[str, Any]:
    features, rows = g["features"], g["rows"]
    compared, equal = (sum(f[k] for f in features.values()) for k in ("compared", "equal"))
    lines = [[n, f["compared"], f["equal"], _named(f["different"])] for n, f in features.items()]
    summary = [f"{rows['compared']:,} rows", f"{equal:,} of {compared:,} values equal"]
    summary += [f"{kind} rows: {_named(rows[kind])}" for kind in ("different", "missing", "extra") if rows[kind]]
    repeats = f"; {g['repeats']:,} rows delivered again after a restart" if g["repeats"] else ""
    return {
        "name": name,
        "open": bool(g["unexplained"]),
        "summary": summary,
        "features": table(["feature", "values", "equal", "different, by cause"], lines, (0, 3)),
        "graph": g["fingerprint"][:16],
        "note": f"delivered up to {_upto(g['output_watermark'])}{repeats}",
    }


def _upto(watermarks: Sequence[str | None]) -> str:
    known = sorted({w for w in watermarks if w})
    if not known:
        return "nothing"
    texts = [moment(e) for e in (known[0], known[-1])]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]} (by shard)"


def _source(name: str, s: SourceEvents) -> dict[str, Any]:
    behind = s["behind"]
    edges = behind["edges_s"][1:]
    note = f"{s['events']:,} events from Kafka; rows wait {_seconds(s['out_of_orderness_s'])} for them"
    note += f" and are corrected for {_seconds(s['allowed_lateness_s'])}"
    if s["before"]:
        note += f"; {s['before']:,} of them before the start of the stream"
    series = [("in the first revision", "c-equal", behind["in_time"]), ("corrects rows", "c-explained", behind["corrects"])]
    return {
        "name": name,
        "note": note,
        "labels": ["in order", *(f"up to {_seconds(e)}" for e in edges), f"over {_seconds(edges[-1])}"],
        "series": [*series, ("too late", "c-bad", behind["too_late"])],
    }


def _revisions(groups: Mapping[str, ComparedGroup]) -> list[int]:
    out = [0] * 6
    for g in groups.values():
        for number, n in g["revisions"].items():
            out[min(int(number), 6) - 1] += n
    return out


def _seconds(value: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= size and value % size == 0:
            return f"{value // size:g} {unit}"
    return f"{value:g} s"


def _online(online: Mapping[str, CheckedKeys] | Mapping[str, CheckedStores]) -> Table | None:
    lines = [[n, o["keys"], o["causes"].get("equal", 0), _named(o["causes"])] for n, o in online.items()]
    return table(["feature group", "keys", "equal", "otherwise"], lines, (0, 3))


def _served(served: Mapping[str, ServedAnswers]) -> Table | None:
    lines = []
    for name, s in served.items():
        behind = ", ".join(f"{k} {span(v)}" for k, v in s["behind_s"].items()) or NONE
        lines.append([name, s["answers"], s["causes"].get("equal", 0), _named(s["causes"]), _named(s["statuses"]), behind])
    return table(["feature view", "answers", "right", "otherwise", "statuses", "behind, if in flight"], lines, (0, 3, 4, 5))


def _samples(groups: Mapping[str, ComparedGroup]) -> Table | None:
    lines = []
    for name, g in groups.items():
        for s in g["samples"]:
            key = ", ".join(str(v) for v in s["keys"].values())
            values = "; ".join(f"{n}: {_value(b)} | {_value(v)}" for n, (b, v) in list(s["values"].items())[:3])
            more = f" and {len(s['values']) - 3} more" if len(s["values"]) > 3 else ""
            lines.append([name, key, s["event_timestamp"].replace("+00:00", "").replace("T", " "), s["cause"], values + more or s["kind"]])
    return table(["feature group", "key", "event timestamp", "cause", "batch | stream"], lines, (0, 1, 2, 3, 4))


def _value(value: Any) -> str:
    return "null" if value is None else repr(value) if isinstance(value, float) else str(value)


def _causes(report: VerifyReport) -> list[tuple[str, str]]:
    found = added([report.values.get("different", {}), report.rows.get("missing", {}), report.rows.get("extra", {})])
    found = added([found, *(one["causes"] for part in (report.online, report.stores, report.served) for one in part.values())])
    return [(cause, text) for cause, text in CAUSE_TEXTS.items() if cause in found]


def _provenance(report: VerifyReport) -> list[tuple[str, str]]:
    stream, batch = report.stream, report.batch
    begin = stream["begin"]
    offsets = "; ".join(f"{s} {', '.join(f'{p}: {o:,}' for p, o in each.items())}" for s, each in stream["offsets"].items())
    began = f"after batch run {stream['from_run']}, {moment(begin)}" if stream["from_run"] and begin else "from the beginning of the topics"
    kind = "an existing run" if batch["against"] else "computed by the batch job from exactly the events that the stream read"
    return [
        ("stream run", stream["run"] or NONE),
        ("began", began),
        ("read up to", offsets),
        ("shards", str(stream["shards"])),
        ("batch run", f"{batch['run']} ({kind})"),
        ("rows between", " and ".join(moment(t) for t in report.range)),
        ("events in batch", ", ".join(f"{n:,} {s}" for s, n in batch["events"].items())),
        ("graphs", ", ".join(f"{n} {f[:16]}" for n, f in batch["fingerprints"].items())),
        ("code", code_text(report.code)),
        ("versions", ", ".join(f"{n} {v}" for n, v in report.versions.items())),
        ("took", f"{report.seconds:g} s"),
    ]
