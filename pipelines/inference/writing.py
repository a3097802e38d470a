"""A proposal as Python that runs as it is: a source's definition, and with ``group`` a first feature group.

Names and values are somebody else's: whatever they hold, they are written as strings, or as comments of one line, and never as code.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from typing import Any

from pipelines.inference.column import ENOUGH, Column
from pipelines.inference.names import identifier, words
from pipelines.inference.proposal import ORIGIN, Proposal
from pipelines.inference.sampling import MOST_COLUMNS, explode_word
from pipelines.lake.counted import counted
from transforms.definitions import Csv
from transforms.places import path_text
from transforms.tables import Table

__all__ = ["USED", "definition"]

USED = frozenset({"col", "days", "feast_views", "hours", "minutes", "seconds", "views"})
"""Names of a definition that a source's own would hide."""

_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))
MOST_LEFT_OUT = 12
MOST_LETTERS = 80
_COUNTED = {"count", "cnt", "age", "size", "length"}
"""Words of names of quantities that cannot be negative. (Amounts can, and what was bought: when it is given back.)"""
_IDS = {"id", "seq", "sequence", "offset", "zip"}
"""Words of names whose numbers are no quantities: -1 may be a guest."""


def definition(made: Proposal, name: str, files: str, topic: str, group: bool, told: str, table: Table | None = None) -> str:
    """The module's text. ``told`` says what it was inferred from; ``table`` is where its events lie, if not in files."""
    columns, used = _fields(made), set[str]()
    lines = [f"{name} = EventSource(", f"    name={_text(name)},"]
    if files:
        lines.append(f"    files={_text(files)},")
    if table is not None:
        lines.append(f"    table={_table(table)},")
        used.add(type(table).__name__)
    if topic:
        lines.append(f"    topic={_text(topic)},")
    if (dialect := made.sample.dialect) is not None:
        lines.append(f"    file_format={_csv(dialect)},{_encoding_said(dialect)}")
        used.add("Csv")
    if made.sample.explode:
        lines.append(f"    explode={_text(path_text(made.sample.explode))},")
    lines += _envelope_lines(made, used)
    lines += _time_lines(made)
    tie = made.tie_breaker
    known = f"{tie.distinct:,} different in {tie.rows:,} records: not unique"
    if tie.unique or tie.is_index:
        known = "no two records have the same" if tie.unique else "the position in the list"
    lines.append(f"    tie_breaker={_text(tie.name)},  # {known}")
    lines += _disorder_lines(made, used)
    if made.sample.rows < ENOUGH:
        lines += [
            f"    # QUESTION: what must every event have? {counted(made.sample.rows, 'record')} cannot tell; required=True makes one"
            " without it a dead letter.",
        ]
    lines += ["    fields=[", *(f"        {line}" for line in columns), "    ],", ")"]
    lines += [f"# {_said_plainly(line)}" for line in _left_out(made)]
    body = "\n".join(lines)
    for function in (
        "Date", "Decimal", "ElementIndex", "Epoch", "Hex", "IsoTime", "Number", "RecordTimestamp", "Text", "TimeFormat", "TimeOfDay",
    ):  # fmt: skip
        if re.search(rf"\b{function}\(", body):
            used.add(function)
    if group:
        body += "\n\n" + _group(made, name, used)
    if made.offset:
        used.add("col")
    names = ", ".join(sorted({"EventSource", "Field", *used}, key=lambda n: (n[0].islower(), n)))
    told = _said_plainly(told).replace("\\", "\\\\").replace('"', "'")
    head = [f'"""Events of {name}: {told}."""', ""]
    imports = [_wrapped(f"from tandem.transforms.definitions import {names}")]
    if group:
        imports.insert(0, "from tandem.pipelines.feature_store.views import feast_views")
    views = ["", "views = feast_views(__name__)  # for Feast: an entity per key, a view per group"] if group else []
    return "\n".join([*head, *imports, "", body, *views, ""])


def _wrapped(line: str) -> str:
    if len(line) <= 140:
        return line
    start, _, names = line.partition(" import ")
    return f"{start} import (\n" + "".join(f"    {n},\n" for n in names.split(", ")) + ")"


def _text(value: str) -> str:
    """A text as Python has it, in double quotes; what cannot be seen, or turns a line around, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in json.dumps(value, ensure_ascii=False))


def _said_plainly(text: str) -> str:
    """A comment's text: of one line, and of what can be seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _table(table: Table) -> str:
    """As a definition has it: what is not as it is anyway."""
    values = {f.name: getattr(table, f.name) for f in fields(table)}
    plain = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(table)}
    first, *rest = (name for name, value in values.items() if value != plain[name])
    return f"{type(table).__name__}({', '.join([_value(values[first]), *(f'{name}={_value(values[name])}' for name in rest)])})"


def _encoding_said(dialect: Csv) -> str:
    guessed = dialect.encoding in ("cp1252", "latin-1")
    return "  # QUESTION: which encoding? it is not UTF-8; infer --encoding says another than this" if guessed else ""


def _csv(dialect: Csv) -> str:
    plain = Csv()
    parts = []
    for key in ("delimiter", "skip", "comment", "header", "columns", "quote", "escape", "nulls", "decimal", "thousands", "encoding"):
        value = getattr(dialect, key)
        if value != getattr(plain, key):
            parts.append(f"{key}={_value(value)}")
    return f"Csv({', '.join(parts)})"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (tuple, list)):
        numbered = [f"column_{i + 1}" for i in range(len(value))]
        if list(value) == numbered and len(value) > 4:
            return f'[f"column_{{i}}" for i in range(1, {len(value) + 1})]'
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_value(k)}: {_value(v)}' for k, v in value.items())}}}"
    return repr(value)


def _path(column: Column, name: str) -> str:
    steps = column.steps
    if column.is_index:
        return ", path=ElementIndex()"
    if column.is_record_time:
        return ", path=RecordTimestamp()"
    if steps == (name,):
        return ""
    plain = all(re.fullmatch(r"[^.\[\]]+", str(s)) or s == "[]" for s in steps)
    if plain:
        text = ""
        for s in steps:
            text += s if s == "[]" else f".{s}" if text else s
        return f", path={_text(text)}"
    return f", path=[{', '.join(_text(str(s)) for s in steps)}]"


def _field(column: Column) -> tuple[str, str]:
    """A field as Python, and what there is to say of it."""
    parts = f'Field({_text(column.name)}, "{column.dtype}"'
    # Of a folder's column it would make each record of a topic a dead letter.
    if column.needed or (column.required and not column.of_folder and column.rows >= ENOUGH):
        parts += ", required=True"
    parts += _path(column, column.name)
    if column.parse:
        parts += f", parse={column.parse}"
    if column.domain is not None:
        parts += f", domain=[{', '.join(_value(v) for v in column.domain)}]"
    elif _least(column) == 0:
        parts += ", min=0"
    return parts + "),", _said_plainly("; ".join(_said(column)))


def _least(column: Column) -> int | None:
    """0 where nothing below it can be meant; 1 where nothing below it was seen, which does not say that it is wrong; else None."""
    number = column.dtype in ("int64", "float64") and isinstance(column.low, (int, float)) and column.low >= 0
    if not number or column.is_index:
        return None
    found = set(words(column.called))
    if column.unsigned or _COUNTED & found:
        return 0
    return None if _IDS & found else 1


def _said(column: Column) -> list[str]:
    notes = list(column.notes)
    if column.of_folder:
        notes.append("from the folder; records of a topic have none")
    if column.nulls:
        notes.insert(0, f"{column.nulls / column.rows:.0%} null" if column.nulls / column.rows >= 0.01 else "seldom null")
    if column.low is not None and column.low != column.high:
        notes.insert(0, f"{_short(column.low)} to {_short(column.high)}")
    elif column.distinct == 1 and column.dtype != "bool":
        notes.insert(
            0, f"always {said}" if len(said := _value(column.low)) <= MOST_LETTERS and column.low is not None else "always the same"
        )
    if _least(column) == 1:
        notes.append("min=0, if it is never negative")
    if column.unique and column.dtype in ("string", "int64"):
        notes.append("unique")
    elif column.dtype == "string" and column.domain is None and column.distinct > 1:
        notes.append(f"{column.distinct:,} different")
    return notes


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _fields(made: Proposal) -> list[str]:
    """One line per field; a run of numbered columns that are declared alike is one line for all."""
    lines, at, columns = [], 0, made.columns
    while at < len(columns):
        run = _run(columns, at)
        if run >= 4:
            stem, first = _numbered(columns[at])
            name_stem = identifier(stem + "0")[:-1]
            one, _ = _field(columns[at])
            own = columns[at].steps[-1]
            text = one[:-1].replace(_text(columns[at].name), f'f"{name_stem}{{i}}"', 1).replace(_text(str(own)), f'f"{stem}{{i}}"', 1)
            share = [c.nulls / c.rows for c in columns[at : at + run]]
            notes = [f"{min(share):.0%} to {max(share):.0%} null"] if max(share) else []
            notes += ["min=0, if they are never negative"] if _least(columns[at]) == 1 else []
            comment = f"  # {'; '.join(notes)}" if notes else ""
            lines.append(f"*({text} for i in range({first}, {first + run})),{comment}")
            at += run
            continue
        text, said = _field(columns[at])
        lines += _with_comment(text, said)
        at += 1
    return lines


def _with_comment(text: str, said: str) -> list[str]:
    if not said:
        return [text]
    return [f"{text}  # {said}"] if len(text) + len(said) < 116 else [f"# {said}", text]


def _numbered(column: Column) -> tuple[str, int]:
    # What stands before the number is written into an f-string: of braces, quotes and the like nothing is folded.
    found = re.fullmatch(r"([A-Za-z0-9_. -]*[A-Za-z_. -])([1-9][0-9]*|0)", str(column.steps[-1])) if len(column.steps) == 1 else None
    return (found[1], int(found[2])) if found else ("", -1)


def _run(columns: list[Column], at: int) -> int:
    stem, first = _numbered(columns[at])
    if first < 0:
        return 1
    form = _form(columns[at])
    n = 1
    while at + n < len(columns) and _numbered(columns[at + n]) == (stem, first + n) and _form(columns[at + n]) == form:
        n += 1
    stemmed = identifier(stem + "0")[:-1]
    return n if all(c.name == f"{stemmed}{first + k}" for k, c in enumerate(columns[at : at + n])) else 1


def _form(column: Column) -> tuple[Any, ...]:
    notes = [n for n in column.notes if n.startswith("QUESTION")]
    return column.dtype, column.required, column.parse, tuple(column.domain or ()), tuple(notes), _least(column)


def _envelope_lines(made: Proposal, used: set[str]) -> list[str]:
    envelope = made.sample.envelope
    if envelope is None:
        return []
    used.add("col")
    op = next(c.name for c in made.columns if c.steps == envelope.op)
    passed = f" ({envelope.passed / envelope.rows:.0%} of the records)" if envelope.passed else ""
    bare = next((f' & col("{c.name}").not_null()' for c in made.columns if c.required and envelope.of_row(c.steps)), "")
    return [
        f"    # Changes of rows, as {envelope.form.program} writes them: the row after each. Deletes are passed over{passed};",
        f"    # what was deleted is at {'.'.join((*envelope.at, *envelope.form.before)).replace('.[]', '[]')}.",
        f'    where=col("{op}").isin([{", ".join(_text(each) for each in sorted(envelope.ops))}]){bare if envelope.bare else ""},',
    ]


def _time_lines(made: Proposal) -> list[str]:
    when = made.event_time
    if made.offset:
        seconds, called = int(ORIGIN.timestamp()), _said_plainly(str(when.steps[-1]))
        if when.of_day:
            unit, divided = ("ns", f'col("{when.name}") // 1_000') if when.of_day > 1_000_000 else ("us", f'col("{when.name}")')
            if made.day is not None:
                since = f'(col("{made.day.name}").cast("int64") + {divided}).cast("timestamp")'
                what = f"{called} of {made.day.name}" if when.parse else f"{called} is {unit} since midnight of {made.day.name}"
                if made.zone is not None:
                    since += f'.from_local({_text(made.zone)}, ambiguous="earlier", missing="later")'
                    said = f"    # {what}, in {made.zone}."
                else:
                    said = f"    # QUESTION: {what}; of which zone? UTC is assumed, and infer --zone says another."
                return [said, "    event_time=Field(", f'        "event_at", "timestamp", value={since}', "    ),"]
            return [
                f"    # QUESTION: {called} is {unit} since a midnight; of which day, in which zone? 2020-01-01 UTC is assumed.",
                '    # A folder date=YYYY-MM-DD may tell: Field("date", "timestamp", parse=Date()) and col("date").cast("int64").',
                f'    event_time=Field("event_at", "timestamp", value=({divided} + {seconds * 1_000_000}).cast("timestamp")),',
            ]
        return [
            f"    # QUESTION: {called} is seconds since a day that the data does not tell; 2020-01-01 is assumed ({seconds}).",
            f'    event_time=Field("event_at", "timestamp", value=((col("{when.name}") + {seconds}) * 1_000_000).cast("timestamp")),',
        ]
    span = [] if when.is_record_time else [f"{when.low} to {when.high} UTC"]
    said = _said_plainly("; ".join(n for n in [*span, *when.notes] if n))
    path = _path(when, when.name)
    if not path and not when.parse:
        return [f"    event_time={_text(when.name)},  # {said}"]
    line = f'    event_time=Field({_text(when.name)}, "timestamp"{path}{f", parse={when.parse}" if when.parse else ""}),'
    return [f"    # {said}", line]


def _disorder_lines(made: Proposal, used: set[str]) -> list[str]:
    d = made.disorder
    if d.measured:
        said = f"behind the newest event before it: p99 {d.p99:.3g} s, p99.9 {d.p999:.3g} s, max {d.most:.3g} s"
    else:
        why = (
            "the order of a table's rows is not the order of arrival"
            if made.sample.kind == "table"
            else "records are stamped as they are sent"
            if made.event_time.is_record_time
            else "the records are not in order of time"
        )
        said = f"QUESTION: {why}, so how late events arrive cannot be measured; these are usual"
    lines = [f"    # {said}"]
    for key, seconds in (("out_of_orderness", d.out_of_orderness), ("allowed_lateness", d.allowed_lateness)):
        if seconds:
            unit, function = next((u, f) for u, f in _UNITS if seconds % u == 0)
            used.add(function)
            lines.append(f"    {key}={function}({seconds // unit}),")
    return lines


def _left_out(made: Proposal) -> list[str]:
    lists = [(path_text(steps), explode_word(steps)) for steps in made.sample.lists if steps != made.sample.explode]
    lines = [f"{one}: a list of objects; infer --explode {word} makes each element an event" for one, word in lists]
    reasons: dict[str, list[str]] = {}
    for column in made.left_out:
        reasons.setdefault(column.left_out, []).append(".".join(str(s) for s in column.steps))
    if made.sample.more:
        lines.append(f"left out: {made.sample.more:,} values of other names than the first {MOST_COLUMNS:,}; are these names data?")
    if made.sample.doubled:
        reasons["as the header has its name more than once; Csv's columns and skip can name each"] = [*made.sample.doubled]
    for why, names in reasons.items():
        more = f" and {len(names) - MOST_LEFT_OUT} more" if len(names) > MOST_LEFT_OUT else ""
        lines.append(f"left out, {why}: {', '.join(n[:MOST_LETTERS] for n in names[:MOST_LEFT_OUT])}{more}")
    return lines


def _original(column: Column) -> str:
    """The name in the data of a field whose own does not tell it, as of one in another script: " (店舗)"."""
    return "" if words(column.called) else f" ({column.called})"


def _group(made: Proposal, name: str, used: set[str]) -> str:
    keys = made.keys
    key = keys[0] if keys else made.tie_breaker
    measure = next((c for c in made.measures if c is not key and c is not made.tie_breaker), None)
    used |= {"Count", "Entity", "FeatureGroup", "hours", "minutes"}
    others = ", ".join(c.name + _original(c) for c in keys[1:6])
    said = "; ".join([*([_original(key).strip(" ()")] if _original(key) else []), *([f"other candidates: {others}"] if others else [])])
    called = f"{name}_by_{key.name}"  # another source may have the same key, and groups of one name would hide one another
    lines = [
        f"{called} = FeatureGroup(", f'    name="{called}",', f"    source={name},",
        f'    entity=Entity("{key.name}"),' + (f"  # {_said_plainly(said)}" if said else ""),
        "    hop=minutes(15),", "    ttl=hours(48),", "    aggregates=[", "        Count(over=[hours(1), hours(24)]),",
    ]  # fmt: skip
    if measure is not None:
        used |= {"Mean", "Max"}
        lines += [f'        Mean("{measure.name}", over=[hours(1), hours(24)]),', f'        Max("{measure.name}", over=hours(24)),']
    return "\n".join([*lines, "    ],", ")"])
