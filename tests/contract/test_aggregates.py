"""Every aggregate that comes with Tandem against the oracle, through the contract suite that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tandem.testing.aggregates import SOURCE, AggregateContract, Input
from tests.examples import examples
from tests.oracle.features import aggregate as oracle
from transforms.definitions import (
    AGGREGATES,
    Age,
    Aggregate,
    Count,
    CountDistinct,
    Entity,
    FeatureGroup,
    Field,
    LastN,
    Quantile,
    TopK,
    hours,
)

OVER = [hours(1), hours(3)]
PARAMETERS: dict[type[Aggregate], list[dict[str, Any]]] = {
    LastN: [{"n": 2}, {"n": 1000}],
    TopK: [{"k": 1}, {"k": 1000}],
    CountDistinct: [{"precision": 4}, {"precision": 11}],
    Quantile: [{"q": 0.9}],
}
GROUP = FeatureGroup("g", SOURCE, Entity("key"), hours(1), hours(6), [Count(over=hours(1))])


@pytest.mark.hypothesis
class TestBuiltIn(AggregateContract):
    examples = examples(18)

    @classmethod
    def aggregates(cls) -> Sequence[Aggregate]:
        out: list[Aggregate] = []
        for kind in AGGREGATES:
            columns = [f.name for f in SOURCE.fields if not f.required and f.dtype in kind.takes] if kind.takes else [None]
            for column in columns:
                for options in PARAMETERS.get(kind, [{}]):
                    made: Any = kind(column, over=OVER, **options)
                    words = [made.name, column or "all", *(str(v).replace(".", "_") for v in options.values())]
                    out.append(replace(made, name="_".join(words)))
            out.append(replace(out[-1], where=Field("b").eq(True) | (Field("n") > 0), name=f"{kind.kind}_where"))
        return out

    def reference(self, aggregate: Aggregate, events: Sequence[Input], boundary: int) -> Any:
        column = aggregate.column or "none"
        return oracle(replace(aggregate, where=None), [{"time": e.time, "serial": e.tie, column: e.value} for e in events], GROUP, boundary)

    def test_each_is_here(self) -> None:
        assert {type(a) for a in self.aggregates()} == set(AGGREGATES) and Age in AGGREGATES
