"""A format of event files: lines of fixed width. The first line names the columns, and each begins where its name does; blanks are null."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from tandem.pipelines.sources.file_formats.file_format import FileFormat, Opened, RawBatch, UnreadableFileError
from tandem.transforms.reasons import INVALID_UTF8, MALFORMED

LONGEST = 64 << 10
"""Bytes of a line; of a longer one this much is kept for its dead letter."""
READ: dict[str, Callable[[str], Any]] = {
    "float64": float,
    "int64": int,
    "timestamp": int,
    "bool": {"true": True, "false": False}.__getitem__,
}


class FixedWidth(FileFormat):
    title = "Fixed width"

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        with opened() as file:
            head = file.readline(LONGEST)
            columns = [(found.group(), found.start()) for found in re.finditer(r"\S+", head.decode("utf-8", "replace"))]
            if head and (not head.endswith(b"\n") or self.source.event_time not in dict(columns)):
                raise UnreadableFileError(f"its first line does not name the columns, {self.source.event_time} among them")
            width = len(head.rstrip(b"\n").decode("utf-8", "replace"))
            number, lines, values, refused = 0, list[bytes](), list[dict[str, Any]](), dict[int, tuple[str, str]]()
            while line := file.readline(LONGEST):
                number += 1
                try:
                    values.append({**given, **self.values(line, columns, width)})
                except ValueError as error:
                    refused[len(values)] = INVALID_UTF8 if isinstance(error, UnicodeDecodeError) else MALFORMED, str(error)
                    values.append({})
                lines.append(line)
                while line and not line.endswith(b"\n"):  # the rest of a line that is too long
                    line = file.readline(LONGEST)
                if len(lines) == batch_rows:
                    yield batch(number, lines, values, refused)
                    lines, values, refused = [], [], {}
            if lines:
                yield batch(number, lines, values, refused)

    def values(self, line: bytes, columns: list[tuple[str, int]], width: int) -> dict[str, Any]:
        """The values of a line by column. Raises ValueError."""
        text = line.decode()
        if not text.endswith("\n") or len(text) != width + 1:
            raise ValueError(f"the line is cut off or of another width; lines of this file have {width} characters")
        dtypes = {f.name: str(f.dtype) for f in self.source.all_fields}
        ends = [*(start for _, start in columns[1:]), width]
        cells = {name: text[start:end].strip() for (name, start), end in zip(columns, ends)}
        return {name: typed(cell, dtypes[name]) for name, cell in cells.items() if name in dtypes}


def batch(number: int, lines: list[bytes], values: list[dict[str, Any]], refused: dict[int, tuple[str, str]]) -> RawBatch:
    """The records of the lines up to this one."""
    numbers = pa.array(range(number - len(lines) + 1, number + 1), pa.int64())
    return RawBatch(numbers, payloads=pa.array(lines, pa.binary()), values=values, refused=refused)


def typed(cell: str, dtype: str) -> Any:
    """What a cell says; a text that is none of its type is left for the contract to refuse."""
    if not cell or dtype == "string":
        return cell or None
    try:
        return READ[dtype](cell)
    except (KeyError, ValueError):
        return cell
