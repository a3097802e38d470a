"""Text as the values of fields: what a column of a text file, or the name of a folder, says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.file_formats import Csv

__all__ = ["cell", "typed_column", "typed_text"]

_INT = re.compile(r"[+-]?[0-9]{1,400}(?:\.0*)?")
_REAL = re.compile(
    r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)
_MICROS = re.compile(r"-?[0-9]{1,18}")
# What a column converts as a whole: none of it is near a bound.
_CLEAN_INT = r"^[+-]?[0-9]{1,18}(?:\.0*)?$"
_CLEAN_REAL = r"^[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?$"
_CLEAN_MICROS = r"^-?[0-9]{1,18}$"
_FOLDER_REAL = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")


def typed_text(text: str, dtype: str) -> Any:
    """The value of a folder's name as its field wants it; what cannot be one stays text, which the contract then refuses."""
    if dtype == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if dtype in ("int64", "timestamp") and _MICROS.fullmatch(text):
        return int(text)
    if dtype == "float64" and _FOLDER_REAL.fullmatch(text):
        return float(text)
    return text


def cell(text: str | None, dtype: str, dialect: Csv) -> Any:
    """The value of one cell (None: null) as its field wants it; what cannot be one stays text."""
    if text is not None and dtype == "number":
        return _number(text, dialect)
    if text is None or dtype not in ("int64", "float64", "bool", "timestamp"):
        return text
    bare = text.strip(" \t")
    if dtype == "bool":
        low = bare.lower()
        return True if low in _lower(dialect.true) else False if low in _lower(dialect.false) else text
    if dtype == "timestamp":
        return int(bare) if _MICROS.fullmatch(bare) else text
    number = _number(bare, dialect)
    if dtype == "int64" and _INT.fullmatch(number):
        return int(number.partition(".")[0])
    if dtype == "float64" and _REAL.fullmatch(number):
        return float(number) if not number.lstrip("+-").isdigit() else int(number)
    return text


def typed_column(column: pa.Array, dtype: str, dialect: Csv) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """A column of text (binary, length N) as its field wants it, and which rows it holds so (bool [N]): the others are for :func:`cell`."""
    n = len(column)
    every = np.ones(n, dtype=bool)
    if dtype == "number" and (dialect.thousands or dialect.decimal != "."):
        return _plain_numbers(_relabel(column), dialect), every
    if dtype not in ("int64", "float64", "bool", "timestamp"):
        return _texts(column)
    null = ~column.is_valid().to_numpy(zero_copy_only=False)
    if dialect.thousands and not dialect.thousands.isascii() and dtype in ("int64", "float64"):
        column = pc.replace_substring(_relabel(column), dialect.thousands, "")
    ascii_only = pc.fill_null(pc.string_is_ascii(_relabel(column)), True)
    text = pc.if_else(ascii_only, _relabel(column), pa.scalar("x")) if not pc.all(ascii_only).as_py() else _relabel(column)
    text = pc.ascii_trim(text, " \t")
    if dtype == "bool":
        low = pc.ascii_lower(text)
        yes, no = (_mask(pc.is_in(low, value_set=pa.array(sorted(_lower(s))))) for s in (dialect.true, dialect.false))
        return pa.array(yes, mask=null), yes | no | null
    if dtype in ("int64", "float64"):
        text = _plain_numbers(text, dialect)
    clean = _mask(pc.match_substring_regex(text, {"int64": _CLEAN_INT, "float64": _CLEAN_REAL}.get(dtype, _CLEAN_MICROS)))
    if dtype == "timestamp" and not clean.any():
        return column, every
    kept = text if (clean | null).all() else pc.if_else(pa.array(clean | null), text, pa.scalar(None, pa.string()))
    if dtype == "int64" and pc.any(pc.match_substring(kept, ".")).as_py():
        kept = pc.replace_substring_regex(kept, r"\.0*$", "")
    if dtype == "float64":
        return pc.cast(pc.replace_substring_regex(kept, r"^\+", ""), pa.float64()), clean | null
    return pc.cast(pc.replace_substring_regex(kept, r"^\+", ""), pa.int64()), clean | null


def _texts(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Text as text, so that nothing takes it for bytes; what is not UTF-8 is for :func:`cell`."""
    try:
        return column.cast(pa.string()), np.ones(len(column), dtype=bool)
    except pa.ArrowInvalid:
        values: list[bytes | None] = column.to_pylist()
        good = np.array([value is None or _is_utf8(value) for value in values], bool)
        return pa.array([value if fine else None for value, fine in zip(values, good, strict=True)], pa.binary()).cast(pa.string()), good


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain_numbers(text: pa.Array, dialect: Csv) -> pa.Array:
    """As :func:`_number`, of a column."""
    if dialect.thousands:
        text = pc.replace_substring(text, dialect.thousands, "")
    if dialect.decimal != ".":
        text = pc.replace_substring(pc.replace_substring(text, ".", "x"), dialect.decimal, ".")
    return text


def _number(text: str, dialect: Csv) -> str:
    if dialect.thousands:
        text = text.replace(dialect.thousands, "")
    if dialect.decimal != ".":
        text = text.replace(".", "x").replace(dialect.decimal, ".")
    return text


def _lower(spellings: Any) -> set[str]:
    return {s.lower() for s in spellings}


def _mask(array: Any) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask


def _relabel(binary: pa.Array) -> pa.Array:
    """A binary array as strings without a check of the encoding; its buffers are shared."""
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers(), offset=binary.offset)
