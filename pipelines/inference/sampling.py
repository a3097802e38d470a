"""A bounded sample of data whose shape nobody has declared: columns by path, as they lie there."""

from __future__ import annotations

import io
import itertools
import json
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.inference.connect_schema import ReadAs, is_described, told_by_avro, told_types
from pipelines.inference.envelope import Envelope, envelope_of
from pipelines.inference.schema_words import categories, file_places, words_of
from pipelines.inference.text_dialect import dialect_of, text_records
from pipelines.lake.counted import counted
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.file_format import COMPRESSED, UnreadableFileError, format_of, one_line
from pipelines.sources.file_formats.json_lines_file import MAX_LINE_BYTES, json_texts
from pipelines.sources.file_formats.line_parts import section
from pipelines.sources.file_records import partitions_of, unread
from transforms.definitions import Csv, EventSource, Field
from transforms.errors import DataError, DefinitionError
from transforms.json_forms import objects_of
from transforms.json_payload import too_deep
from transforms.nested import entries_of, entry_names
from transforms.places import EACH, lists_of, path_of, path_text

__all__ = ["Sample", "Steps", "explode_word", "flattened", "json_object", "maps_as_objects", "sample_files", "sample_records", "types_of"]

MOST_FILES = 20
"""Of a folder so many files are looked at, evenly spread over their names."""
MOST_COLUMNS = 2_000
"""More names than these are data: an object by the ids of things, say."""
MOST_BYTES = 256 << 20
"""Of lines of one file, decompressed: of some kilobytes any number can come."""
MOST_LETTERS = 200
"""Of a name."""
MOST_DEPTH = 64
"""As the contract takes JSON."""
MOST_ELEMENTS = 8
"""Elements of a list that are looked into for other lists."""
LINES = (".jsonl", ".ndjson", ".json")
TEXTS = (".csv", ".tsv", ".txt")
ARROWS = (".parquet", ".arrow", ".arrows", ".ipc", ".feather")
_NAME = EventSource(name="sampled", fields=[Field("key", "string", required=True)], event_time="at", tie_breaker="key")
_ANY = replace(_NAME, file_format=Csv())
"""Of which all files are that those of some source may be."""

Steps = tuple[Any, ...]
"""Where a value stands: names of members; ``"[]"`` for each element of the list that is taken apart."""


@dataclass
class Sample:
    """N records of some data: ``columns`` maps where a value stands to the values (length N, None where it is missing).

    ``parts`` are how many of them came from each file or partition, in order; ``kind`` is file, topic or table, whose rows are in no order
    in which they came; ``text``: values are text as the format has nothing else.
    ``lists`` are the lists of objects that were seen, by path.
    """

    columns: dict[Steps, list[Any]]
    rows: int
    parts: list[int]
    kind: str
    text: bool = False
    dialect: Csv | None = None
    suffix: str = ""
    lists: dict[Steps, int] = field(default_factory=dict)
    maps: set[Steps] = field(default_factory=set)
    """Where lists of entries stand, which are maps."""
    kinds: dict[Steps, pa.DataType] = field(default_factory=dict)
    words: dict[Steps, tuple[str, ...]] = field(default_factory=dict)
    """Those that a schema has for what is one of an enum."""
    folders: tuple[str, ...] = ()
    """Columns that records of files have from their folders (``key=value``)."""
    envelope: Envelope | None = None
    """What Debezium puts around each row, where its records are such."""
    key_names: frozenset[str] = frozenset()
    """The names of what stands in the records' keys."""
    explode: Steps | None = None
    """The list whose elements are the rows: as it was asked for, or as an envelope has its rows."""
    told: dict[Steps, ReadAs] = field(default_factory=dict)
    """How members are read, where records say of what type these are."""
    doubled: tuple[str, ...] = ()
    """Names that a header has more than once, whose columns are left out."""
    more: int = 0
    """Values that were passed over, as there were :data:`MOST_COLUMNS` names before theirs."""


def sample_files(
    path: Path, rows: int, explode: str | Steps | None = None, encoding: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Sample:
    """The first ``rows`` records of a file, or as many in all from the files of a folder. Raises DataError, one line."""
    files, there = _files(path)
    say(f"looking at {files[0].name if there == 1 else counted(files, 'file')}" + (f" of {there:,}" if there > len(files) else ""))
    each = max(1, rows // len(files))
    records: list[Mapping[str, Any]] = []
    parts: list[int] = []
    types: dict[Steps, pa.DataType] = {}
    dialect: Csv | None = None
    suffix = _suffix(files[0])
    columns: dict[str, None] = {}
    doubled: dict[str, None] = {}
    for file in files:
        if _suffix(file) in TEXTS and dialect is None:
            dialect = _dialect(file, encoding)
        try:
            found = list(itertools.islice(_records(file, dialect, types, doubled), each))
        except UnreadableFileError as error:
            raise DataError(f"{file}: {error}") from error
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's; those of a codec carry no number
                raise
            raise DataError(f"{file} cannot be decompressed: {one_line(error)}; repair the file, or name one that can") from None
        given = partitions_of(file.parent.relative_to(path).parts) if path.is_dir() else ()
        columns |= dict.fromkeys(name for name, _ in given if any(name not in r for r in found))
        records += [{**dict(given), **r} for r in found] if given else found
        parts.append(len(found))
    if not records:
        raise DataError(f"{path} holds no records; nothing can be inferred")
    made = flattened(records, explode, parts)
    made.kind, made.text, made.dialect, made.suffix = "file", dialect is not None, dialect, suffix
    made.kinds, made.folders, made.doubled = types, tuple(columns), tuple(doubled)
    places = [file_places(file) for file in files if _suffix(file) == ".avro"]
    made.words = words_of(made.columns, places)
    made.told |= told_by_avro((each.schemas for each in places), made.columns)
    made.words |= categories(made.columns, [file for file in files if _suffix(file) in ARROWS])
    return made


def sample_records(
    records: Sequence[Mapping[str, Any]], explode: str | Steps | None, dialect: Csv | None = None,
    types: dict[Steps, pa.DataType] | None = None, parts: Sequence[int] | None = None,
) -> Sample:  # fmt: skip
    """A sample of the decoded records of a topic. ``dialect`` is that of lines; ``types`` are those of columns, where they are known;
    ``parts``: how many of the records came from each partition."""
    made = flattened(records, explode, parts)
    made.kind, made.text, made.dialect, made.kinds = "topic", dialect is not None, dialect, types or {}
    return made


def flattened(records: Sequence[Mapping[str, Any]], explode: str | Steps | None = None, parts: Sequence[int] | None = None) -> Sample:
    """Records as columns by path. ``explode`` names a list of which each element becomes a row, perhaps within other lists;
    ``parts`` are how many records in a row came from one place (default: all). Raises DataError."""
    columns: dict[Steps, list[Any]] = {}
    lists: dict[Steps, int] = {}
    maps: set[Steps] = set()
    row = more = 0
    envelope = envelope_of(records)
    wanted = _wanted(explode) if explode else envelope.rows_at if envelope is not None else None
    exploded = lists_of(wanted) if wanted else ()
    described = all(map(is_described, records))
    sizes = list(parts or [len(records)])
    of_part = [0] * len(sizes)
    for record, part in zip(records, (p for p, n in enumerate(sizes) for _ in range(n)), strict=True):
        if envelope is not None and not envelope.has_row(record):
            continue
        for event in _events(record, (), exploded, lists, maps):
            for steps, value in event:
                if (envelope is not None and not envelope.keeps(steps)) or (described and steps[0] == "schema"):
                    continue
                column = columns.get(steps)
                if column is None:
                    if len(columns) >= MOST_COLUMNS:
                        more += 1
                        continue
                    column = columns[steps] = [None] * row
                column.extend([None] * (row - len(column)))
                column.append(value)
            row += 1
            of_part[part] += 1
    for column in columns.values():
        column.extend([None] * (row - len(column)))
    if wanted is not None and not row:
        for record in records:
            _note_lists(record, (), lists)
        raise DataError(
            f"--explode {explode_word(wanted)}: no record has a list there; lists of objects:"
            f" {', '.join(map(explode_word, lists)) or 'none'}"
        )
    if envelope is not None:
        lists = {steps: n for steps, n in lists.items() if envelope.keeps(steps)}
    if described:
        lists = {steps: n for steps, n in lists.items() if steps[0] != "schema"}
    told = told_types(records) if described else {}
    return Sample(columns, row, of_part, "records", lists=lists, maps=maps, envelope=envelope, more=more, explode=wanted, told=told)


def _wanted(explode: str | Steps) -> Steps:
    """The path of a list, as it is asked for. Raises DataError, also for one within a single element of another, as ``orders[0].items``."""
    try:
        steps = path_of("--explode", explode)
    except DefinitionError as error:
        raise DataError(str(error)) from None
    if any(isinstance(step, int) for step in steps):
        every = explode_word(tuple(EACH if isinstance(step, int) else step for step in steps))
        raise DataError(
            f"--explode {explode_word(steps)}: infer takes all elements of a list, not one by its position; give {every}, and correct"
            " the paths of the definition that it writes"
        )
    return steps


def explode_word(steps: Steps) -> str:
    """The path of a list as it is written after ``--explode`` in a shell, where brackets stand for the names of files."""
    return shlex.quote(path_text(steps))


def _has_event(value: Any, exploded: Sequence[Steps], done: int = 0) -> bool:
    """Whether a value has an element in each list that is ``exploded``. ``done`` of the steps led to the value."""
    if not exploded:
        return True
    for name in exploded[0][done:]:
        value = value.get(name) if isinstance(value, Mapping) else None
    return isinstance(value, list) and any(_has_event(element, exploded[1:], len(exploded[0]) + 1) for element in value)


def _events(value: Any, at: Steps, exploded: Sequence[Steps], lists: dict[Steps, int], maps: set[Steps]) -> list[list[tuple[Steps, Any]]]:
    """The leaves of each event of a value, in its order: one event for each element of the innermost list that is ``exploded``. What stands
    beside a list is looked at once, however many elements this has."""
    if not _has_event(value, exploded, len(at)):
        return []
    leaves = iter([(at, value)]) if not isinstance(value, Mapping) else _leaves(value, at, exploded[0] if exploded else None, lists, maps)
    if not exploded:
        if _is_of_objects(value) and _members(value) is None:  # a list in a list
            _note_lists(value, at, lists)
            return [[]]
        return [list(leaves)]
    before: list[tuple[Steps, Any]] = []
    for steps, found in leaves:
        if steps == exploded[0]:
            break
        before.append((steps, found))
    else:
        return []
    inner = [event for element in found for event in _events(element, (*exploded[0], EACH), exploded[1:], lists, maps)]
    after = list(leaves)
    return [[*before, *event, *after] for event in inner]


def _leaves(
    value: Mapping[Any, Any], at: Steps, exploded: Steps | None, lists: dict[Steps, int], maps: set[Steps]
) -> Iterator[tuple[Steps, Any]]:
    """What stands in a value, at any depth, and the list that is ``exploded`` as it is."""
    for name, inner in value.items():
        if not name or name == "[]" or len(name) > MOST_LETTERS:
            continue  # no field can stand there
        steps = (*at, str(name))
        if steps == exploded:
            yield steps, inner
        elif (members := _members(inner)) is not None:
            if inner is not members:
                maps.add(steps)
            if len(steps) < MOST_DEPTH:
                yield from _leaves(members, steps, exploded, lists, maps)
        elif _is_of_objects(inner):
            _note_lists(inner, steps, lists)
        else:
            yield steps, inner


def _is_of_objects(value: Any) -> bool:
    """Whether it is a list of objects or of lists."""
    return isinstance(value, list) and any(isinstance(e, (Mapping, list)) for e in value)


def _note_lists(value: Any, at: Steps, lists: dict[Steps, int]) -> None:
    """Count the lists of objects or of lists in a value that stands at ``at``, itself too, and within their first elements."""
    if len(at) >= MOST_DEPTH:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name:
                _note_lists(inner, (*at, str(name)), lists)
    elif _is_of_objects(value) and _members(value) is None:
        lists[at] = lists.get(at, 0) + 1
        for element in value[:MOST_ELEMENTS]:
            _note_lists(element, (*at, EACH), lists)


def _members(value: Any) -> Mapping[Any, Any] | None:
    """The members of an object, or of a map that stands as a list of entries; None for what is neither. What only has a name may be a list
    of things: of entries with one each has a value, and no two have the same name."""
    if isinstance(value, Mapping):
        return value
    entries = entries_of(value) if isinstance(value, list) else None
    if not entries:
        return None
    key, of_value = entry_names({member for entry in value if entry for member in entry}) or ("key", "value")
    return entries if key == "key" or (len(entries) == len(value) and all(of_value in entry for entry in value)) else None


def _files(path: Path) -> tuple[list[Path], int]:
    """The files to look at, and how many there are. Raises DataError."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; correct the path")
    if path.is_file():
        if why := unread(path.name, _ANY):
            raise DataError(f"{path.name} is no event file: {why}")
        return [path], 1
    every = [p for p in sorted(path.rglob("*")) if p.is_file() and not any(x.startswith((".", "_")) for x in p.relative_to(path).parts)]
    known = [p for p in every if not unread(p.name, _ANY)]
    if not known:
        why = f": {every[0].name} is {unread(every[0].name, _ANY)}" if every else "; it is empty"
        raise DataError(f"{path} holds no event files{why}")
    suffixes = {_suffix(p) for p in known}
    if len(suffixes & set(TEXTS)) and suffixes - set(TEXTS):
        raise DataError(f"{path} holds files of several kinds ({', '.join(sorted(suffixes))}); name one file or folder of one kind")
    if len(known) <= MOST_FILES:
        return known, len(known)
    return [known[i * (len(known) - 1) // (MOST_FILES - 1)] for i in range(MOST_FILES)], len(known)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _records(
    file: Path, dialect: Csv | None, types: dict[Steps, pa.DataType], doubled: dict[str, None]
) -> Iterator[Mapping[str, Any]]:  # fmt: skip
    suffix = _suffix(file)
    if suffix in TEXTS and dialect is not None:
        yield from _text_records(file, dialect, doubled)
    elif suffix in LINES:
        for text in json_texts(lambda: section(lambda: opened(file), (0, MOST_BYTES))):
            if (record := json_object(text)) is not None:
                yield record
    else:
        found = format_of(suffix)
        if found is None:
            return
        for raw in found(_NAME).read(lambda: opened(file), 4_096, {}):
            assert raw.rows is not None
            for name, kind in zip(raw.rows.schema.names, raw.rows.schema.types, strict=True):
                types_of(kind, (name,), types)
            yield from maps_as_objects(raw.rows)


def maps_as_objects(rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows as Python has them, but maps, at any depth, are objects, not lists of pairs."""
    forms = {name: form for name, kind in zip(rows.schema.names, rows.schema.types, strict=True) if (form := objects_of(kind)) is not None}
    columns = [_held(column) for column in rows.columns]
    for values in zip(*columns, strict=True):
        row = dict(zip(rows.schema.names, values, strict=True))
        yield {**row, **{name: form(row[name]) for name, form in forms.items() if row[name] is not None}}


def _held(column: pa.Array) -> list[Any]:
    """The values of a column as Python has them; None for moments that are beyond its calendar, of which no field has any."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_held_alone(value) for value in column]


def _held_alone(value: pa.Scalar) -> Any:
    with suppress(ValueError, OverflowError):
        return value.as_py()
    return None


def types_of(kind: pa.DataType, at: Steps, types: dict[Steps, pa.DataType]) -> None:
    """Note the type of a column, or of each member of one of structs."""
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            types_of(kind[i].type, (*at, kind[i].name), types)
    else:
        types.setdefault(at, kind)


def json_object(line: bytes) -> dict[str, Any] | None:
    """A JSON object; None for what is none, and for one that the contract refuses for its depth."""
    if too_deep(line):  # before the interpreter's own limit, which depends on its version
        return None
    try:
        value = json.loads(line.decode("utf-8-sig"))  # of bytes json takes UTF-16 as well, which the contract refuses
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # halves of characters are no text
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text_records(file: Path, dialect: Csv, doubled: dict[str, None]) -> Iterator[Mapping[str, Any]]:
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding  # what stands before a quote would make it a letter
    with opened(file) as f, io.TextIOWrapper(f, encoding, errors="replace", newline="") as text:
        left = MOST_BYTES
        for _ in range(dialect.skip):
            text.readline(MAX_LINE_BYTES)

        def lines() -> Iterator[str]:
            nonlocal left
            while left > 0 and (line := text.readline(MAX_LINE_BYTES)):
                left -= len(line)
                yield line

        yield from text_records(lines(), dialect, doubled)


def _dialect(file: Path, encoding: str | None) -> Csv:
    with opened(file) as f:
        return dialect_of(f.read(1 << 18), encoding, str(file))
