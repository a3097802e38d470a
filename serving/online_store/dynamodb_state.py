"""What rows of DynamoDB are judged by beside their own past, so that a transaction can check that it is as it was read.

A view's applied graph with what is covered of it, and a project's owner, are one **state** each. Transactions that check the same item at
the same time cancel each other, so a state has :data:`COPIES`, and a writer checks any one of them. It is changed in two rounds: the new
values are put into all copies, closed; then all are opened. Whoever finds a closed copy writes nothing by it, and when the second round
begins no transaction can succeed any more that was judged by the values of before. Copy 0 is closed first and opened last: who closes
it has decided the change, and anybody can finish it, so that nothing waits for one who was killed in between.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.online_store.dynamodb_items import ID, Item
from serving.online_store.dynamodb_link import Link
from transforms.instants import now_us

__all__ = ["COPIES", "Held", "State", "read_open"]

COPIES = 16
"""For good: whoever knew of fewer would not see all changes."""
_ATTRIBUTES = ("version", "closed", "held")


@dataclass(frozen=True)
class Held:
    """A copy as it was read. ``version``: 0 where there is none, rising with each change; ``closed``: it is changed, to ``values``."""

    copy: int
    version: int = 0
    values: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False


@dataclass(frozen=True)
class State:
    """The state ``name`` in a table. Its methods raise what the service's client does."""

    link: Link
    table: str
    name: str

    def place(self, copy: int) -> tuple[str, str]:
        """(table, id) of a copy; no hash of an entity's key is such an id."""
        return self.table, f"{self.name} {copy}"

    def read(self, copy: int = 0) -> Held:
        """A copy; copy 0 says what is decided. Nothing is held where there is no table."""
        place = self.place(copy)
        return self.held(copy, self.link.get([place], consistent=True).get(place))

    @staticmethod
    def held(copy: int, item: Mapping[str, Any] | None) -> Held:
        """The copy in an item that was read; None: there is none."""
        if item is None:
            return Held(copy)
        values = {name: value["S"] for name, value in item["held"]["M"].items()}
        return Held(copy, int(item["version"]["N"]), values, item["closed"]["BOOL"])

    def check(self, held: Held, turn: int) -> dict[str, Any]:
        """The action of a transaction that a copy is as the one that was read, and open: as long as one is, all that are open are. With
        another ``turn`` of the link's for each transaction, those that are under way at once have copies of their own."""
        place = self.place(turn % COPIES)[1]
        return {"ConditionCheck": {"TableName": self.table, "Key": {ID: {"S": place}}, **_unchanged(held)}}

    def change(
        self, make: Callable[[Mapping[str, str]], Mapping[str, str]], also: Callable[[], Sequence[Mapping[str, Any]]] = tuple
    ) -> Mapping[str, str]:
        """Put what ``make`` makes of the values in their place, in one atomic step with the checks ``also``; the values then. When this
        returns, no transaction succeeds any more that was judged by others. Both may be called again, where something has changed
        meanwhile. Raises what they raise."""
        until = self.link.until()
        for _ in self.link.tries(until):
            held = self.read()
            if held.closed:
                self.finish(held)
                continue
            new = make(held.values)
            if new == held.values:
                return new
            closed = Held(0, max(now_us(), held.version + 1), new, closed=True)  # never a number of a table that was dropped
            put = {"Put": {"TableName": self.table, "Item": self._item(closed), **_unchanged(held)}}
            if self.link.transact([put, *also()], until):
                self.finish(closed)
                return new
        raise AssertionError("unreachable")

    def finish(self, decided: Held) -> None:
        """Carry out a change that copy 0 has decided. Whoever else does so meanwhile, or has, does no harm."""
        older = {
            "ConditionExpression": f"attribute_not_exists({ID}) OR version < :new",
            "ExpressionAttributeValues": {":new": {"N": str(decided.version)}},
        }
        shut = {
            "ConditionExpression": "version = :new AND closed = :closed",
            "ExpressionAttributeValues": {":new": {"N": str(decided.version)}, ":closed": {"BOOL": True}},
        }
        copies = [Held(copy, decided.version, decided.values, closed=True) for copy in range(COPIES)]
        list(self.link.at_once(lambda held: self._put(held, older), copies[1:]))
        copies = [Held(held.copy, held.version, held.values) for held in copies]
        list(self.link.at_once(lambda held: self._put(held, shut), copies[1:]))
        self._put(copies[0], shut)

    def _put(self, held: Held, condition: Mapping[str, Any]) -> None:
        """Put a copy, where the condition holds: else somebody else did."""
        with contextlib.suppress(self.link.errors.ConditionalCheckFailedException):
            self.link.put(self.table, self._item(held), condition)

    def _item(self, held: Held) -> dict[str, Any]:
        return {
            ID: {"S": self.place(held.copy)[1]},
            "version": {"N": str(held.version)},
            "closed": {"BOOL": held.closed},
            "held": {"M": {name: {"S": value} for name, value in held.values.items()}},
        }


def read_open(
    link: Link,
    states: Sequence[State],
    places: Sequence[tuple[str, str]] = (),
    attributes: Sequence[str] = (),
    decided: bool = False,
    until: float | None = None,
) -> tuple[list[Held], dict[tuple[str, str], Item]]:
    """(an open copy of each state, the items of other places with these attributes), all by one request. Any copy, or with ``decided`` copy
    0, for who was refused by another. A change that somebody was killed in is carried out."""
    until = link.until() if until is None else until
    for _ in link.tries(until):
        copies = [0 if decided else random.randrange(COPIES) for _ in states]
        asked = [state.place(copy) for state, copy in zip(states, copies)]
        found = link.get([*asked, *places], (*_ATTRIBUTES, *attributes), until=until)
        held = [state.held(copy, found.pop(place, None)) for state, copy, place in zip(states, copies, asked)]
        closed = [state for state, copy in zip(states, held) if copy.closed]
        if not closed:
            return held, found
        for state in closed:
            if (change := state.read()).closed:
                state.finish(change)
    raise AssertionError("unreachable")


def _unchanged(held: Held) -> dict[str, Any]:
    if not held.version:
        return {"ConditionExpression": f"attribute_not_exists({ID})"}
    return {
        "ConditionExpression": "version = :version AND closed = :open",
        "ExpressionAttributeValues": {":version": {"N": str(held.version)}, ":open": {"BOOL": False}},
    }
