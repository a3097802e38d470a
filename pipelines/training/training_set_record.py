"""What a training set says of itself: ``manifest.json`` beside its rows, typed. Light: no Feast, no Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

from pipelines.lake import layout
from pipelines.lake.data_files import read_json
from pipelines.lake.json_records import Record
from pipelines.training.definition import Column
from transforms.errors import DataError

__all__ = ["Split", "TrainingSetRecord"]


class Split(NamedTuple):
    """How many rows a split has, and how many of them have the label 1."""

    rows: int
    positives: int


@dataclass(frozen=True, kw_only=True)
class TrainingSetRecord(Record):
    """A training set; written once, with its rows.

    ``id`` is a hash of the query (``model`` to ``borders_us``) and of the values. ``model`` is the model's canonical form; ``features``
    are ``view:feature`` texts; ``projections`` says what a view's name stands for where it is no view of the registry;
    ``fingerprints`` are those of the graphs, by view. ``borders_us`` are the two moments where eval and test begin, in microseconds,
    ``borders`` the same as texts. ``null_share`` is by column.
    """

    WHAT: ClassVar[str] = "training set"

    id: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    projections: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    spine_sha256: str = ""
    borders_us: list[int] = field(default_factory=list)
    values_sha256: str = ""
    created: str = ""
    """ISO 8601, UTC."""
    columns: list[Column] = field(default_factory=list)
    borders: list[str] = field(default_factory=list)
    splits: dict[str, Split] = field(default_factory=dict)
    left_out_at_borders: int = 0
    null_share: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The column of the label."""
        return str(self.model.get("label", ""))

    @property
    def rows(self) -> dict[str, int]:
        """split -> rows."""
        return {name: split.rows for name, split in self.splits.items()}

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        splits = {name: split._asdict() for name, split in self.splits.items()}
        out = {**super().to_dict(), "columns": [[c.name, c.dtype, c.view, c.feature] for c in self.columns], "splits": splits}
        return out if self.projections else {name: value for name, value in out.items() if name != "projections"}

    @classmethod
    def decoded(cls, name: str, value: Any, place: object) -> Any:
        """Columns and splits are records of their own."""
        try:
            if name == "columns":
                return [Column(*each) for each in value]
            return {of: Split(int(each["rows"]), int(each["positives"])) for of, each in value.items()} if name == "splits" else value
        except (TypeError, ValueError, KeyError, AttributeError):
            raise DataError(f"{place}: {name} is {value!r:.40}; it is no {cls.WHAT} of Tandem's") from None

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """That of the training set in ``folder``; None where there is none, or not all of it. Raises DataError of ``of``."""
        said = read_json(folder / layout.MANIFEST)
        return None if said is None else cls.of(cast(Mapping[str, Any], said), folder / layout.MANIFEST)

    @classmethod
    def load_known(cls, folder: Path) -> Self | None:
        """As :meth:`load`; None also where it is of a newer Tandem, or none of Tandem's: for those who look at every set that there is."""
        try:
            return cls.load(folder)
        except DataError:
            return None
