"""Changes of rows as programs write them that follow a database's log: each record says what was done, when, and the row after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.nested import entries_of
from transforms.places import EACH

__all__ = ["FORMS", "Envelope", "Form", "envelope_of"]

Steps = tuple[Any, ...]


@dataclass(frozen=True)
class Form:
    """How a ``program`` writes changes: ``op`` is where it says what was done, ``row`` the row after it, for the ops ``with_row``;
    ``others`` are ops without one. ``times`` are where the moment of a change may stand, the best first, ``places`` where its place in the
    log does. ``needs``: what stands in every record beside these. ``before`` says where what was deleted is. Rows of a list end with
    :data:`EACH`."""

    program: str
    op: Steps
    row: Steps
    with_row: frozenset[str]
    others: frozenset[str]
    times: tuple[Steps, ...]
    places: tuple[Steps, ...]
    needs: tuple[Steps, ...]
    before: Steps

    def is_change(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is written so."""
        op = _at(record, self.op)
        shaped = isinstance(op, str) and op in self.with_row | self.others and all(_at(record, steps) is not None for steps in self.needs)
        return shaped and all(_is_row(found) for steps in (self.row, self.before) if (found := _at(record, steps)) is not None)

    def has_row(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has a row after its change."""
        return _at(record, self.op) in self.with_row and _is_row(_at(record, self.row))


FORMS = (
    Form(
        "Debezium", ("op",), ("after",), frozenset("cru"), frozenset("dtm"), (("source", "ts_ms"),),
        tuple(("source", name) for name in ("lsn", "pos", "scn", "change_lsn")), (("source", "ts_ms"),), ("before",),
    ),
    Form(
        "Maxwell", ("type",), ("data",), frozenset({"insert", "update", "bootstrap-insert"}),
        frozenset({"delete", "bootstrap-start", "bootstrap-complete"}), (("ts",),), (("position",), ("xid",), ("xoffset",)),
        (("database",), ("table",), ("ts",)), ("data",),
    ),
    Form(
        "MongoDB", ("operationType",), ("fullDocument",), frozenset({"insert", "update", "replace"}),
        frozenset({"delete", "drop", "rename", "dropDatabase", "invalidate"}), (("wallTime",), ("clusterTime",)), (("_id", "_data"),),
        (("_id",),), ("documentKey",),
    ),
    Form(
        "GoldenGate", ("op_type",), ("after",), frozenset("IU"), frozenset("DT"), (("op_ts",),), (("pos",),), (("table",), ("op_ts",)),
        ("before",),
    ),
    Form(
        "DynamoDB", ("eventName",), ("dynamodb", "NewImage"), frozenset({"INSERT", "MODIFY"}), frozenset({"REMOVE"}),
        (("dynamodb", "ApproximateCreationDateTime"),), (("eventID",), ("dynamodb", "SequenceNumber")), (("dynamodb", "Keys"),),
        ("dynamodb", "Keys"),
    ),
    Form(
        "Canal", ("type",), ("data", EACH), frozenset({"INSERT", "UPDATE"}),
        frozenset({"DELETE", "CREATE", "ALTER", "QUERY", "TRUNCATE", "ERASE", "RENAME", "CINDEX", "DINDEX"}), (("es",),), (("id",),),
        (("database",), ("es",)), ("data", EACH),
    ),
    Form(
        "wal2json", ("action",), ("columns",), frozenset("IU"), frozenset("DTBCM"), (("timestamp",),), (("lsn",), ("xid",)), (),
        ("identity",),
    ),
)  # fmt: skip
"""Debezium's ops: created, read for a snapshot, updated; deleted, truncated, a message. wal2json's, of its second format: inserted,
updated; deleted, truncated, a transaction's begin and commit, a message."""


@dataclass(frozen=True)
class Envelope:
    """``at`` is where the envelope stands in each record: () or ``("payload",)``, beside its schema. ``passed`` says how many of the
    ``rows`` have no row after them, such as deletes; ``ops`` are those that have one, and ``bare`` says that some of these lack it at
    times, as MongoDB's updates do; ``time`` is where the moments of changes stand."""

    form: Form
    at: Steps
    passed: int
    rows: int
    ops: frozenset[str]
    bare: bool
    time: Steps

    @property
    def rows_at(self) -> Steps | None:
        """Where a list of rows stands, of which each is an event; None where there is one row."""
        return (*self.at, *self.form.row[:-1]) if self.form.row[-1] == EACH else None

    @property
    def op(self) -> Steps:
        """Where what was done stands."""
        return (*self.at, *self.form.op)

    def has_row(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has a row after its change."""
        inside = _at(record, self.at)
        return isinstance(inside, Mapping) and self.form.has_row(inside)

    def keeps(self, steps: Steps) -> bool:
        """Whether what stands there is the event's: the row, what was done, and when and where in its database."""
        return bool(self.of_row(steps)) or self.is_time(steps) or self.is_place(steps) or steps == self.op

    def of_row(self, steps: Steps) -> Steps:
        """The place of a column within its row; () where it is none of the row's."""
        row = (*self.at, *self.form.row)
        return steps[len(row) :] if steps[: len(row)] == row else ()

    def is_time(self, steps: Steps) -> bool:
        """Whether it is the moment of the change in its database."""
        return steps[: len(self.time)] == self.time and steps[-1] != "i"  # of MongoDB's timestamps the number within a second

    def is_place(self, steps: Steps) -> bool:
        """Whether it is the place of the change in its database's log."""
        return steps[: len(self.at)] == self.at and steps[len(self.at) :] in self.form.places


def envelope_of(records: Sequence[Mapping[str, Any]]) -> Envelope | None:
    """The envelope that all records have; None where some have none, or no record has a row."""
    for form in FORMS:
        for at in ((), ("payload",)):
            found = [_at(record, at) for record in records]
            if not found or not all(isinstance(each, Mapping) and form.is_change(each) for each in found):
                continue
            rows = [each for each in found if form.has_row(each)]
            if rows:
                has, lacks = ({_at(each, form.op) for each in some} for some in (rows, [r for r in found if not form.has_row(r)]))
                time = next((steps for steps in form.times if _at(rows[0], steps) is not None), form.times[0])
                ops = form.with_row - (lacks - has)
                return Envelope(form, at, len(found) - len(rows), len(found), ops, bool(lacks & has), (*at, *time))
    return None


def _is_row(value: Any) -> bool:
    """Whether it is an object of columns, or a list of these with their names and values."""
    return isinstance(value, Mapping) or (isinstance(value, list) and entries_of(value) is not None)


def _at(record: Any, steps: Steps) -> Any:
    for step in steps:
        if step == EACH and isinstance(record, list):
            record = record[0] if record else None
            continue
        if not isinstance(record, Mapping):
            return None
        record = record.get(step)
    return record
