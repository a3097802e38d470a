"""A subject's records in a file of JSON, in any form that its events are read from, taken out; what stays is as it was, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pipelines.forgetting.subject import Mask, Subject, opened, packed
from pipelines.lake.files import replaced
from pipelines.sources.file_formats.json_documents import divided_text, has_documents
from pipelines.sources.file_formats.transcoded import marked_encoding

__all__ = ["without_json"]


def without_json(path: Path, subject: Subject, dry_run: bool = False) -> int:
    """Rewrite a file of JSON without the subject's records, in one step; how many there were. Its form and its encoding stay."""
    with opened(path) as file:
        data = file.read()
    encoding = marked_encoding(data)
    text = data.decode(encoding).encode("utf-8", "surrogatepass") if encoding else data
    records, separators = _pieces(text)
    gone = subject.within(path).in_texts(records)
    if gone.any() and not dry_run:
        rest = _rest(records, separators, gone)
        with replaced(path.resolve(), durable=True) as out:
            out.write(packed(path, rest.decode("utf-8", "surrogatepass").encode(encoding) if encoding else rest))
    return int(gone.sum())


def _pieces(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """The N records of a JSON file, and the N + 1 pieces of text before, between and behind them."""
    if not has_documents(io.BytesIO(text)):
        lines = text.splitlines(keepends=True)
        return lines, [b""] * (len(lines) + 1)
    records, separators, at = [], [b""], 0
    for _, length, record in divided_text(io.BytesIO(text)):
        piece, at = text[at : at + length], at + length
        if record:
            records.append(piece)
            separators.append(b"")
        else:
            separators[-1] += piece
    return records, separators


def _rest(records: Sequence[bytes], separators: Sequence[bytes], gone: Mask) -> bytes:
    """The text without some of its records, and what separated each from the next: an array stays one."""
    kept = [at for at in range(len(records)) if not gone[at]]
    between = [separators[at + 1] if at != kept[-1] else b"" for at in kept]
    return b"".join([separators[0], *(records[at] + gap for at, gap in zip(kept, between, strict=True)), separators[-1]])
