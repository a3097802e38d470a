"""Columns that a source computes of its others, and the events that it takes: its expressions over what was read."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from transforms.columns import OK, Codes, Column, all_ok
from transforms.event_source import EventSource
from transforms.expressions import Formula
from transforms.expressions.values import Column as ReadColumn
from transforms.zones import AMBIGUOUS, utc_of_one

__all__ = ["chosen", "clock_change", "compute"]


def _evaluated(source: EventSource, f: Formula, columns: dict[str, Column], n: int) -> Column:
    read: dict[str, ReadColumn] = {name: columns[name] for name in f.fields}
    array, codes = f.evaluate(read, tuple(t for t in source.types if t[0] in read), n)
    return array, all_ok(n) if codes is None else codes


def compute(source: EventSource, columns: dict[str, Column], n: int) -> None:
    """Add the computed columns of N events, in the order of the fields: each may read those before it.

    One that has no value in an event, or that reads a field which cannot be read, has the code of that reason.
    """
    for f in source.all_fields:
        if f.value is not None:
            # An expression that counts in int64 is widened; of a float64 the cast is nothing.
            formula = Formula("cast", (f.formula, "float64")) if f.dtype == "float64" else f.formula
            columns[f.name] = _evaluated(source, formula, columns, n)


def clock_change(source: EventSource, formula: Formula, columns: dict[str, Column], event: int) -> str:
    """Why a ``from_local`` in a formula has no value in one event, where clocks change there, and what to write; empty: none is so."""
    for f in formula.walk():
        if f.op != "from_local":
            continue
        local, zone, ambiguous, missing = f.args
        one = {name: (columns[name][0][event : event + 1], columns[name][1][event : event + 1]) for name in local.fields}
        shown, codes = _evaluated(source, local, one, 1)
        us = shown[0].as_py()
        with suppress(OverflowError):
            if us is None or codes[0] != OK:
                continue
            at = datetime(1970, 1, 1) + timedelta(microseconds=us)
            why = utc_of_one(at, zone, ambiguous, missing)
            if isinstance(why, str):
                option = "ambiguous" if why == AMBIGUOUS else "missing"
                return f'{at} {why} in {zone} at that time; choose one: from_local(..., {option}="earlier" or "later")'
    return ""


def chosen(source: EventSource, columns: dict[str, Column], n: int) -> tuple[npt.NDArray[np.bool_], Codes]:
    """Which of N events are of the source, bool [N], and why it cannot be told of one, codes [N]: that is of the source, as a reject."""
    assert source.filter is not None
    truth, codes = _evaluated(source, source.filter, columns, n)
    taken: npt.NDArray[np.bool_] = truth.fill_null(False).to_numpy(zero_copy_only=False)
    return taken | (codes != OK), codes
