"""A key's name in a payload: wherever a subject's records are found, its key is known."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting.key_names import has_key, json_has
from pipelines.forgetting.subject import Subject

HAVE = [
    b'{"user": "alice-1"}',
    b'{"a": [{"b": {"user" : "alice-1"}}]}',
    b'{"us\\u0065r": "alice-1"}',
    b'{"\\u0075\\u0073\\u0065\\u0072": "alice-1"}',
    b'{"us\\u0065r": "alice-1", "x": ',
    b'{"user": "alice-1", "x": ',
    b'{"user": "bob"} {"user": "alice-1"}',
    b'"user": "alice-1",',
    b'\x00\x00\x00\x00\x07{"user": "alice-1"}',
    b'{"a": ' + b"[" * 200_000 + b'{"user": "alice-1"}',
    b'{"x": "open, "user": "alice-1"}',
]
HAVE_NOT = [
    b'{"text": "\\"user\\": alice-1"}',
    b'{"text": "{\\"user\\": \\"alice-1\\"}", "x": ',
    b'{"users": "alice-1", "a_user": "user"}',
    b'["user", "alice-1"]',
    b'the "user" alice-1 said: hello',
    b"user: alice-1",
    b"",
]


@pytest.mark.parametrize("payload", HAVE)
def test_a_key_is_known_in_what_its_subject_is_found_in(payload: bytes, tmp_path: Path) -> None:
    assert Subject.parse(["user=alice-1"]).is_in_text(payload)
    assert json_has(payload, "user")
    assert not json_has(payload, "use")
    pq.write_table(pa.table({"payload": pa.array([None, payload], pa.binary())}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + payload + b"\n")
    for name in ("a.parquet", "a.jsonl"):
        assert has_key(tmp_path / name, (), "user", None, letters=False)
        assert not has_key(tmp_path / name, (), "use", None, letters=False)


@pytest.mark.parametrize("payload", HAVE_NOT)
def test_a_word_of_a_payload_is_no_key(payload: bytes) -> None:
    assert not json_has(payload, "user")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("zähler", '{"zähler": 1}'.encode()),
        ("zähler", b'{"z\\u00E4hler": 1}'),
        ("zähler", b'{"z\\u00e4hler": 1, '),
        ("\U0001f600", b'{"\\ud83d\\uDE00": 1, '),
        ("a/b", b'{"a\\/b": 1}'),
        ('a"b\\', b'{"a\\"b\\\\": 1}'),
        ("a.b*", b'{"a.b*": 1, '),
    ],
)
def test_a_key_is_known_however_it_is_spelled(name: str, payload: bytes) -> None:
    assert json_has(payload, name)
    assert not json_has(payload, name[:-1] + "x")
