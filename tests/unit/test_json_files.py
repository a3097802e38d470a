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
from hypothesis import given
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
