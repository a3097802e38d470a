"""JSON that is not a record a line: arrays, records behind each other, records over several lines, other encodings, in every place that
reads JSON files."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.key_names import has_key
from pipelines.forgetting.subject import Subject, holds
from pipelines.sources.event_files import events
from pipelines.sources.file_formats import json_documents
from pipelines.sources.file_formats.json_lines_file import JsonLinesFile, json_texts
from tandem.testing.memory import grown
from tests.unit.inferred import inferred
from transforms.definitions import EventSource, Field

DAY = 86_400_000_000
NOW = 20_000 * DAY
SOURCE = EventSource(
    "s", [Field("k", "string", required=True), Field("note", "string")], event_time="at", tie_breaker="k", files="events/s"
)

FORMS: dict[str, Callable[[list[str]], str]] = {
    "lines": lambda texts: "\n".join(texts) + "\n",
    "array": lambda texts: f"[{','.join(texts)}]",
    "array over lines": lambda texts: "[\n  " + ",\n  ".join(texts) + "\n]\n",
    "an array a line": lambda texts: f"[{','.join(texts[:2])}]\n[{','.join(texts[2:])}]\n",
    "behind each other": "".join,
    "with commas": lambda texts: ",\n".join(texts) + ",\n",
    "RFC 7464": lambda texts: "".join(f"\x1e{text}\n" for text in texts),
}


def records(n: int) -> list[dict[str, Any]]:
    odd = ['"', "\\", "}{", "][", "\\\\", "ü\u2028", "\n", ""]
    return [{"k": f"k{i}", "at": NOW - DAY + i, "note": odd[i % len(odd)], "more": {"of": [1, {"x": []}]}} for i in range(n)]


def texts(n: int, indent: int | None = None) -> list[str]:
    return [json.dumps(r, indent=indent, ensure_ascii=False) for r in records(n)]


def harvest(path: Path, rows: int = 65_536) -> tuple[list[tuple[Any, Any]], list[tuple[Any, ...]]]:
    pairs = list(events(path, SOURCE, NOW, 0, batch_rows=rows))
    valid = [(e["k"], e["note"]) for v, _ in pairs for e in v.to_pylist()]
    return valid, [(d["row"], d["reason"], d["payload"]) for _, b in pairs for d in b.to_pylist()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_inferred_and_erased(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "events" / "s" / "a.json.gz"
    path.parent.mkdir(parents=True)
    wanted = [(r["k"], r["note"]) for r in records(9)]
    for indent in (None, 2) if form != "lines" else (None,):
        path.write_bytes(gzip.compress(FORMS[form](texts(9, indent)).encode(encoding)))
        assert harvest(path) == harvest(path, rows=2) == (wanted, [])
        _, found = inferred(tmp_path, "s")
        assert found["s"].field("k").required and found["s"].event_time == "at"
        subject = Subject.parse(["k=k3"])
        assert holds(path, subject) and has_key(path, (), "k", SOURCE, letters=False)
        assert without_json(path, subject, dry_run=True) == without_json(path, subject) == 1
        assert not holds(path, subject) and without_json(path, subject) == 0
        assert harvest(path) == ([each for each in wanted if each[0] != "k3"], [])


@given(st.lists(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=9)))
def test_texts_are_divided_where_their_values_end(values: list[Any]) -> None:
    """Whatever they hold, and wherever a block that was read ends."""
    whole = [{"v": v} for v in values]
    for form in ("array", "array over lines", "behind each other"):
        data = FORMS[form]([json.dumps(v, ensure_ascii=False, indent=1) for v in whole]).encode("utf-8", "surrogatepass")
        for block in (1, 3, 1 << 20):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(json_documents, "_BLOCK", block)
                pieces = list(json_documents.divided_text(io.BytesIO(data)))
            assert b"".join(piece for piece, _, _ in pieces) == data
            assert [json.loads(piece.decode("utf-8", "surrogatepass")) for piece, _, record in pieces if record] == whole


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('[A,{"k": "b", ', ["a"], [(1, b'{"k": "b",')]),
        ("[A,B", ["a", "b"], [(2, b"")]),  # cut between records: something is missing, and nothing says what
        ("[A,", ["a"], [(1, b",")]),
        ("[A, 5, B, null]", ["a", "b"], [(1, b", 5,"), (3, b", null")]),
        ("[A}, B]", ["a", "b"], [(1, b"},")]),
        ("[A, [B]]", ["a"], [(1, b"[B]")]),
        ('A{"k": }B', ["a", "b"], [(1, b'{"k": }')]),
        ('{"k": "x"\nA\nB\n', ["a", "b"], [(0, b'{"k": "x"')]),  # lines, of which the first was cut off
        ("Ax\nB\n", ["b"], [(0, b"Ax")]),
        ("[]", [], []),
        ("[", [], [(0, b"")]),
        ("[A]\n\ufeff[B]", ["a", "b"], []),
        ('["cut\nA\nB\n', ["a", "b"], [(0, b'["cut')]),
        ("[2026-01-01] it's \"started\nA\nB\n", ["a", "b"], [(0, b"[2026-01-01] it's \"started")]),
        ('[\n{"k":"x"y"},\nA,\nB\n]\n', ["a", "b"], [(0, b'{"k":"x"y"},')]),
        ('[{"k":"x"y"},\n A,\n B]\n', ["a", "b"], [(0, b'{"k":"x"y"},')]),
        ('[\n{"k":[1,\nA,\nB\n]\n', ["a", "b"], [(0, b'{"k":[1,')]),
        ('[\nA,\n{"k":{"x":1,\nB\n]\n', ["a", "b"], [(1, b'{"k":{"x":1,')]),
    ],
)
def test_what_is_damaged_is_a_reject_and_the_rest_goes_on(tmp_path: Path, text: str, good: list[str], bad: list[tuple[int, bytes]]) -> None:
    one, two = (json.dumps({"k": k, "at": NOW - DAY}) for k in "ab")
    path = tmp_path / "a.json"
    path.write_text(text.replace("A", one).replace("B", two))
    valid, letters = harvest(path)
    assert [k for k, _ in valid] == good
    assert [(row, payload) for row, _, payload in letters] == [
        (row, payload.replace(b"A", one.encode()).replace(b"B", two.encode())) for row, payload in bad
    ]


def test_a_file_of_another_encoding_is_used_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(FORMS["lines"](texts(5)).encode("utf-16")[:-1])
    assert harvest(path) == ([], [(None, "unreadable_file", None)])


def test_memory_is_bounded_and_a_long_record_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_documents, "MAX_LINE_BYTES", 3 << 20)
    monkeypatch.setattr("pipelines.sources.file_formats.json_lines_file.MAX_LINE_BYTES", 3 << 20)
    one, two = texts(2)
    long = '{"k": "' + "x\\\\" * (48 << 18) + '"}'
    path = tmp_path / "a.json"
    path.write_text(f"[{one},{two}]")
    harvest(path)  # what is imported at first use
    for odd in (long, '{"k": [' + "[]," * (8 << 20) + "0]}"):
        path.write_text(f"[{one},{odd},{two}]")
        with grown() as most:
            valid, letters = harvest(path)
            assert most() < 24 << 20
        assert [k for k, _ in valid] == ["k0", "k1"]
        assert [(row, reason, len(payload)) for row, reason, payload in letters] == [(1, "malformed", json_documents.KEPT_OF_LONG_LINE)]


def test_files_of_lines_alone_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    form = JsonLinesFile(SOURCE)
    for name, made in FORMS.items():
        path.write_text(made(texts(50)))
        assert bool(form.parts(lambda: path.open("rb"), 500)) == (name == "lines"), name
        assert len(list(json_texts(lambda: path.open("rb")))) == 50


@pytest.mark.parametrize("first", [b'{"k":"caf\xe9"}', b'{"k":"%b"}' % (b"x" * 70_000), b'{"k":"cut', b'["cut', b"[2026] it's \"on"])
def test_lines_stay_lines_whatever_the_first_is(tmp_path: Path, first: bytes) -> None:
    """They are divided between workers, and cost one record for one damaged line."""
    path, subject = tmp_path / "a.jsonl", Subject.parse(["k=k1"])
    data = b"\n".join([first, b'{"k":"cut off', *(b'{"k":"k%d","at":%d}' % (i, NOW - DAY) for i in range(1_001)), b""])
    path.write_bytes(data)
    assert JsonLinesFile(SOURCE).parts(lambda: path.open("rb"), 5_000)
    valid, letters = harvest(path)
    assert len(valid) == 1_001 and {row for row, _, _ in letters} <= {0, 1}
    assert without_json(path, subject) == 1
    assert path.read_bytes() == data.replace(b'{"k":"k1","at":%d}\n' % (NOW - DAY), b"")


@pytest.mark.parametrize(
    ("text", "left", "count"),
    [
        ('[\n{"k":"x"y"},\n{"k":"alice"},\n{"k":"bob"}\n]\n', '[\n{"k":"x"y"},\n{"k":"bob"}\n]\n', 1),
        ('[\n{"k":"x"},\n{"k":"alice"y"},\n{"k":"bob"}\n]\n', '[\n{"k":"x"},\n{"k":"bob"}\n]\n', 1),
        ('{"records":[\n{"k":"bob"},\n{"k":"alice"}\n]}', '{"records":[\n{"k":"bob"}\n]}', 1),
        ('{"a": {"records": [{"k":"alice"}, {"k":"bob"}]}, "n": 2}', '{"a": {"records": [{"k":"bob"}]}, "n": 2}', 1),
        ('{\n "k": "alice",\n "items": [{"n": 1}, {"n": 2}]\n}', "", 1),
        ('[1,{"k":"alice"},2,{"k":"bob"}]', '[1,2,{"k":"bob"}]', 1),
        ('[{"k":"bob"},{"k":"alice"}]\n[{"k":"alice"}]\n[{"k":"eve"}]', '[{"k":"bob"}]\n[]\n[{"k":"eve"}]', 2),
        ('{"k":"eve"}\n{"k":"alice"}{"k":"bob"}\n[{"k":"alice"},{"k":"bob"}]\n', '{"k":"eve"}\n{"k":"bob"}\n[{"k":"bob"}]\n', 2),
        ('{"k":"eve"}\n{"k":"alice\n{"k":"bob"}\n', '{"k":"eve"}\n{"k":"bob"}\n', 1),
        ('[{"k":"x"y"},{"k":"alice"},{"k":"bob"}]', None, 0),  # nothing says where it ends: it stays, and is named
        ('[{"k":"bob"},{"k":"x"y"},{"k":"alice"},{"k":"eve"}]', None, 0),
        ('{"k":"eve"}\n{"k":"alice","x":1 {"k":"bob"}\n', None, 0),
    ],
)
def test_erasing_takes_nobody_elses_records(tmp_path: Path, text: str, left: str | None, count: int) -> None:
    path, subject = tmp_path / "a.json", Subject.parse(["k=alice"])
    path.write_text(text)
    assert without_json(path, subject, dry_run=True) == count == without_json(path, subject)
    assert path.read_text() == (text if left is None else left)
    assert holds(path, subject) == (left is None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_file_keeps_its_order_of_bytes(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"k":"alice"}\n{"k":"b\u00fc"}\n'.encode(encoding))
    assert without_json(path, Subject.parse(["k=alice"])) == 1
    assert path.read_bytes() == '\ufeff{"k":"b\u00fc"}\n'.encode(encoding)


def damaged(text: str, at: float, kind: str) -> str:
    place = 1 + int(at * (len(text) - 2))
    return text[:place] if kind == "cut" else text[:place] + text[place + 1 :] if kind == "less" else text[:place] + kind + text[place:]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


VALUES = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["", '"', "\\", "}{", "[", "],"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("ab"), v, max_size=2),
    max_leaves=6,
)
DAMAGE = st.none() | st.tuples(st.floats(0, 1), st.sampled_from(["cut", "less", '"', "{", "}", "[", "]", ",", "\\", "x"]))


@given(st.lists(st.tuples(VALUES, st.booleans(), DAMAGE), min_size=1, max_size=8), st.sampled_from(["\n", ",\n", ",\n  ", ",", ""]))
@settings(max_examples=100)
def test_damage_of_some_records_costs_no_other(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[Any, bool, tuple[float, str] | None]], between: str
) -> None:
    path, subject = tmp_path_factory.mktemp("json") / "a.json", Subject.parse(["k=alice"])
    made = [json.dumps({"k": f"{'alice' if own else 'other'}", "i": f"<{i}>", "v": v}) for i, (v, own, _) in enumerate(drawn)]
    text = [damaged(t, *how) if how else t for t, (_, _, how) in zip(made, drawn, strict=True)]
    whole = [t for t, (_, _, how) in zip(text, drawn, strict=True) if how is None]
    own = [t for t in whole if '"k": "alice"' in t]
    assume(all(how is None or not is_json(t) for t, (_, _, how) in zip(text, drawn, strict=True)))
    array = between.startswith(",")
    lead = between[1:] if array else ""
    path.write_text(f"[{lead}{between.join(text)}{lead.rstrip(' ')}]" if array else between.join(text))
    by_line = "\n" in between
    if by_line:
        read = {t.decode() for t in json_texts(lambda: path.open("rb"))}
        assert read >= set(whole)
    without_json(path, subject)
    rest = path.read_text()
    assert [t for t in whole if t in rest and t not in own] == [t for t in whole if t not in own]
    left = [t for t in own if t in rest]
    assert not left or (not by_line and holds(path, subject))
    if len(whole) == len(text):
        assert not left and (not array or json.loads(rest) == [json.loads(t) for t in whole if t not in own])
