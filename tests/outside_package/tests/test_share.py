"""What the author of the package writes to have the aggregate tested: its reference in plain Python, and cases of interest."""

from collections.abc import Sequence
from typing import Any, ClassVar

from tandem_outside.aggregates import Share

from tandem.testing.aggregates import AggregateContract, Input
from tandem.transforms.definitions import Aggregate, Field, hours


class TestShare(AggregateContract):
    examples = 15
    fingerprints: ClassVar = {"b_outside_share": "ba49b186a20a8ece0b59772b5eca3cfaac38b16b5c25ba504214aae82f70da39"}

    @classmethod
    def aggregates(cls) -> Sequence[Aggregate]:
        return [
            Share("b", over=[hours(1), hours(3)]),
            Share("b", over=hours(2), scale=100.0, where=Field("n") > 0, name="percent"),
        ]

    def reference(self, aggregate: Any, events: Sequence[Input], boundary: int) -> float | None:
        seen = [event.value for event in events]
        return sum(seen) / len(seen) * aggregate.scale if seen else None
