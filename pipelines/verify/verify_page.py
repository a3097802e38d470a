"""The result as one HTML file: no scripts, nothing fetched, readable on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from pipelines.reports import charts
from pipelines.reports.page import code_text as _code
from pipelines.reports.page import document, save
from pipelines.reports.page import moment as _moment
from pipelines.reports.page import section as _section
from pipelines.reports.page import table as _table

__all__ = ["render_page", "write_report"]

NONE = "-"
CAUSE_TEXTS = {
    "too late": "Events came after the allowed lateness, so the stream left them out and wrote them down. Proven: each was too late by the"
    " order of its partition, and the row computed anew without exactly these events is the stream's to the bit.",
    "behind an idle partition": "Events were in time in their partition, but that had been idle and the others had gone on. Proven as"
    " above, except that the log cannot tell that the partition was idle.",
    "in flight": "The stream had not come that far when it was looked at: the row was not due, or events were not read yet.",
    "other fingerprint": "The row was made by another transform graph. Proven: that graph over the row computed anew gives the stream's.",
    "late data": "The server answered with a revision that was right then, and was corrected by a late event afterwards.",
    "ahead of the clock": "The row is right, but its event timestamp lies after the instant that the server judged by.",
    "another writer": "The store holds a newer row that batch has too and the stream did not deliver: somebody else wrote it.",
    "unexplained": "Nothing that is on record explains it. This is a defect.",
}


def write_report(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` to ``folder``; the path of the page."""
    return save(result, render_page(result), folder)


def render_page(result: Mapping[str, Any]) -> str:
    """The page."""
    good = result["verdict"] == "proven"
    parts = [
        f"<h1>Tandem · stream <b>{escape(result['stream']['name'])}</b> against batch · {_moment(result['started'])}</h1>",
        f'<div class="verdict{"" if good else " bad"}"><strong>{escape(_verdict(result))}</strong>'
        f"<p>{escape(result['headline'])}.</p></div>",
        _tiles(result),
        _problems(result["problems"]),
        _notices(result["notices"]),
        _over_time(result["time"]),
        _groups(result["groups"]),
        _lateness(result["sources"], result["groups"]),
        _online(result["online"]),
        _served(result["served"]),
        _samples(result["groups"]),
        _causes(result),
        _provenance(result),
    ]
    title = f"Tandem: {'proven' if good else 'NOT proven'}, {result['stream']['name']}"
    return document(title, "".join(parts))


def _verdict(result: Mapping[str, Any]) -> str:
    if result["verdict"] != "proven":
        return "✗ Not proven"
    return "✓ Proven: every difference has its cause" if result["values"].get("different") else "✓ Proven: equal to the bit"


def _named(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {cause}" for cause, n in causes.items() if cause != "equal") or NONE


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for part in parts:
        for cause, n in part.items():
            out[cause] = out.get(cause, 0) + n
    return out


def _tiles(result: Mapping[str, Any]) -> str:
    values = result["values"]
    named = sum(n for c, n in values.get("different", {}).items() if c != "unexplained")
    tiles = [("values compared", values.get("compared", 0), ""), ("equal to the bit", values.get("equal", 0), "")]
    tiles += [("different, cause proven", named, ""), ("unexplained", result["unexplained"], " bad" if result["unexplained"] else "")]
    tiles += [("rows compared", result["rows"].get("compared", 0), "")]
    if result["online"]:
        tiles.append(("keys in the online store", sum(o["keys"] for o in result["online"].values()), ""))
    if result["served"]:
        tiles.append(("answers of the server", sum(s["answers"] for s in result["served"].values()), ""))
    drawn = (f'<div class="tile{css}"><b>{n:,}</b><span>{escape(text)}</span></div>' for text, n, css in tiles)
    return f'<div class="tiles">{"".join(drawn)}</div>'


def _problems(problems: Sequence[str]) -> str:
    body = "".join(f"<li>{escape(line)}</li>" for line in problems)
    return _section("What nothing explains", f'<ul class="problems">{body}</ul>' if body else "")


def _notices(notices: Sequence[str]) -> str:
    body = "".join(f"<li>{escape(line)}</li>" for line in notices)
    return _section("To know", f"<ul>{body}</ul>" if body else "")


def _over_time(time: Mapping[str, Any]) -> str:
    if not time["start"]:
        return ""
    start, step = datetime.fromisoformat(time["start"]), timedelta(seconds=time["step_s"])
    n = len(time["equal"])
    labels = [f"{start + step * i:%Y-%m-%d %H:%M}" for i in range(n)]
    days = step * n > timedelta(days=2)
    ticks = [f"{start + step * n * i / 4:{'%b %d' if days else '%b %d %H:%M'}}" for i in range(5)]
    named = [("equal", "c-equal", time["equal"]), ("explained", "c-explained", time["explained"])]
    named += [("not due yet", "c-flight", time["in_flight"]), ("unexplained", "c-bad", time["unexplained"])]
    odd = [s for s in named[1:] if any(s[2])]
    body = charts.legend(named) + charts.columns(named, labels, ticks)
    if odd:
        body += "<h3>of these, what differs, is missing or extra</h3>" + charts.columns(odd, labels, ticks, 90)
    every = {3600: "hour", 86400: "day", 604800: "week"}.get(time["step_s"], f"{time['step_s'] // 3600} hours")
    return _section(f"Rows per {every} of event time", body, "All feature groups together.")


def _groups(groups: Mapping[str, Any]) -> str:
    out = []
    for name, g in groups.items():
        features, rows = g["features"], g["rows"]
        compared, equal = (sum(f[k] for f in features.values()) for k in ("compared", "equal"))
        lines = [[n, f["compared"], f["equal"], _named(f["different"])] for n, f in features.items()]
        parts = [f"{rows['compared']:,} rows", f"{equal:,} of {compared:,} values equal"]
        for kind in ("different", "missing", "extra"):
            if rows[kind]:
                parts.append(f"{kind} rows: {_named(rows[kind])}")
        told = "".join(f"<span>{escape(p)}</span>" for p in parts)
        table = _table(["feature", "values", "equal", "different, by cause"], lines, (0, 3))
        facts = f'<p class="note">graph <code>{escape(g["fingerprint"][:16])}</code>; delivered up to {escape(_upto(g["emitted"]))}'
        facts += f"; {g['repeats']:,} rows delivered again after a restart</p>" if g["repeats"] else "</p>"
        out.append(f"<details{' open' if g['unexplained'] else ''}><summary><b>{escape(name)}</b>{told}</summary>{table}{facts}</details>")
    return _section("Feature groups", "".join(out), "Open a group for its features.")


def _upto(emitted: Sequence[str | None]) -> str:
    known = sorted({e for e in emitted if e})
    if not known:
        return "nothing"
    texts = [_moment(e) for e in (known[0], known[-1])]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]} (by shard)"


def _lateness(sources: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    parts = []
    for name, s in sources.items():
        b = s["behind"]
        if not s["events"]:
            continue
        edges = b["edges_s"][1:]
        labels = ["in order", *(f"up to {_seconds(e)}" for e in edges), f"over {_seconds(edges[-1])}"]
        series = [("in the first revision", "c-equal", b["in_time"]), ("corrects rows", "c-explained", b["corrects"])]
        series += [("too late", "c-bad", b["too_late"])]
        told = f"{s['events']:,} events from Kafka; rows wait {_seconds(s['out_of_orderness_s'])} for them"
        told += f" and are corrected for {_seconds(s['allowed_lateness_s'])}"
        if s["before"]:
            told += f"; {s['before']:,} of them before the stream's beginning"
        chart = charts.legend(series) + charts.rows(series, labels)
        parts.append(f'<div><h3>{escape(name)}</h3><p class="note">{escape(told)}</p>{chart}</div>')
    revisions = [("rows", "c-equal", _revisions(groups))]
    parts.append(
        '<div><h3>revisions per row</h3><p class="note">How often late events corrected a row; 1: never.</p>'
        + charts.rows(revisions, ["1", "2", "3", "4", "5", "6 and more"])
        + "</div>"
    )
    body = f'<div class="two">{"".join(parts)}</div>'
    return _section(
        "How late events came", body, "Behind the newest event of their partition, in event time. The length of a bar is logarithmic."
    )


def _revisions(groups: Mapping[str, Any]) -> list[int]:
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


def _online(online: Mapping[str, Any]) -> str:
    lines = [[n, o["keys"], o["causes"].get("equal", 0), _named(o["causes"])] for n, o in online.items()]
    note = "Per key: the row that is stored, against the newest delivered row and the newest batch row that was due."
    return _section("Online store", _table(["feature group", "keys", "equal", "otherwise"], lines, (0, 3)) if lines else "", note)


def _served(served: Mapping[str, Any]) -> str:
    lines = []
    for name, s in served.items():
        behind = ", ".join(f"{k} {v:g} s" for k, v in s["behind_s"].items()) or NONE
        lines.append([name, s["answers"], s["causes"].get("equal", 0), _named(s["causes"]), _named(s["statuses"]), behind])
    note = (
        "From the request log: each answer against what was on record at its instant. Behind: event time between the row and the one due."
    )
    head = ["feature view", "answers", "right", "otherwise", "statuses", "behind, if in flight"]
    return _section("Answers of the server", _table(head, lines, (0, 3, 4, 5)) if lines else "", note)


def _samples(groups: Mapping[str, Any]) -> str:
    lines = []
    for name, g in groups.items():
        for s in g["samples"]:
            key = ", ".join(str(v) for v in s["keys"].values())
            values = "; ".join(f"{n}: {_value(b)} | {_value(v)}" for n, (b, v) in list(s["values"].items())[:3])
            more = f" and {len(s['values']) - 3} more" if len(s["values"]) > 3 else ""
            lines.append([name, key, s["event_timestamp"].replace("+00:00", "").replace("T", " "), s["cause"], values + more or s["kind"]])
    head = ["feature group", "key", "event timestamp", "cause", "batch | stream"]
    return _section("Examples of differences", _table(head, lines, (0, 1, 2, 3, 4)) if lines else "", "A few of each cause.")


def _value(value: Any) -> str:
    return "null" if value is None else repr(value) if isinstance(value, float) else str(value)


def _causes(result: Mapping[str, Any]) -> str:
    found = _added([result["values"].get("different", {}), *(result["rows"].get(k, {}) for k in ("missing", "extra"))])
    found = _added([found, *(o["causes"] for o in result["online"].values()), *(s["causes"] for s in result["served"].values())])
    body = "".join(f"<dt>{escape(c)}</dt><dd>{escape(t)}</dd>" for c, t in CAUSE_TEXTS.items() if c in found)
    return _section("What the causes mean", f'<dl class="facts">{body}</dl>' if body else "")


def _provenance(result: Mapping[str, Any]) -> str:
    stream, batch, code = result["stream"], result["batch"], result["code"]
    offsets = "; ".join(f"{s} {', '.join(f'{p}: {o:,}' for p, o in each.items())}" for s, each in stream["offsets"].items())
    began = f"after batch run {stream['from_run']}, {_moment(stream['begin'])}" if stream["from_run"] else "at the beginning of the topics"
    kind = "an existing run" if batch["against"] else "made over exactly the events that the stream read, by the batch job itself"
    facts = [
        ("stream run", stream["run"] or NONE),
        ("began", began),
        ("read up to", offsets),
        ("shards", str(stream["shards"])),
        ("batch run", f"{batch['run']} ({kind})"),
        ("rows between", " and ".join(_moment(t) for t in result["range"])),
        ("events in batch", ", ".join(f"{n:,} {s}" for s, n in batch["events"].items())),
        ("graphs", ", ".join(f"{n} {f[:16]}" for n, f in batch["fingerprints"].items())),
        ("code", _code(code)),
        ("versions", ", ".join(f"{n} {v}" for n, v in result["versions"].items())),
        ("took", f"{result['seconds']:g} s"),
    ]
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    again = (
        f"<p class=note>Do it again (add --keep to look at the event log and both sets of rows):</p><pre>{escape(result['command'])}</pre>"
    )
    return _section("Where this comes from", f'<dl class="facts">{body}</dl>{again}')
