"""Feast's entities, sources and views, derived from feature groups: the types and names are written once, in the definitions.

A feature repository gets them by one call, :func:`pipelines.feature_store.views.feast_views`. Nothing is read from the feature rows: they
may not be there yet.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from transforms.data_folder import SPEC_FILE, applied_graph, graphs
from transforms.definitions import CREATED, EVENT_TIMESTAMP, FINGERPRINT, RESERVED, REVISION, FeatureGroup
from transforms.errors import DefinitionError, GraphError

__all__ = ["DEFINITION", "FeastObjects", "GroupView", "feast_objects", "feast_type", "load_outputs"]

DEFINITION = "definition_hash"
"""The tag of a group's source and view that bears the hash of its definition; others have none."""

_TYPES: tuple[tuple[pa.DataType, Any], ...] = (
    (pa.string(), String),
    (pa.int64(), Int64),
    (pa.int32(), Int32),
    (pa.float64(), Float64),
    (pa.float32(), Float32),
    (pa.bool_(), Bool),
)
_NAMES = {"float32": pa.float32(), "float64": pa.float64(), "str": pa.string(), **{str(t): t for t, _ in _TYPES}}


class GroupView(FeatureView):
    """The view of a group with a preprocessing_fn. What the function gives is known when its graph is applied; until then a service may
    name any output (``view[["busy_z"]]``), so that definitions which name a new one can be loaded to make it.

    Feast checks such names when it applies the service.
    """

    def __copy__(self) -> GroupView:
        made: GroupView = super().__copy__()  # type: ignore[no-untyped-call]
        made.__class__ = GroupView
        return made

    def __getitem__(self, item: list[str]) -> GroupView:
        known = {f.name for f in self.features}
        made: GroupView = super().__getitem__([name for name in item if name in known])  # type: ignore[no-untyped-call]
        if not known.issuperset(item):
            made.projection.desired_features = list(item)
        return made


@dataclass(frozen=True)
class FeastObjects:
    """What ``feast apply`` needs of some groups: one entity per key field, one source and one view per group."""

    entities: list[Entity]
    sources: list[FileSource]
    views: list[FeatureView]

    def features(self, without: Collection[str] = ()) -> list[Any]:
        """For a ``FeatureService``: of each view all features but Tandem's own columns and those called as in ``without``.

        FeatureViews; what else may stand in that list differs between versions of Feast, and a type checker takes no other list for it.
        """
        kept = [(view, [f.name for f in view.features if f.name not in RESERVED and f.name not in without]) for view in self.views]
        return [view[names] for view, names in kept if names]

    def by_name(self) -> dict[str, Entity | FileSource | FeatureView]:
        """Every object under the name that it gets in a module: ``entity_<key>``, ``source_<source>``, ``view_<group>``."""
        return {
            **{f"entity_{e.name}": e for e in self.entities},
            **{f"source_{s.name}": s for s in self.sources},
            **{f"view_{v.name}": v for v in self.views},
        }

    def named(self) -> dict[str, Entity | FileSource | FeatureView]:
        """As :meth:`by_name`; deprecated: what repositories of before give to ``globals().update``."""
        _say_once(
            "tandem: globals().update(feast_objects(...).named()) is feast_views(__name__) now, of tandem.pipelines.feature_store.views;"
            " change the end of your definitions"
        )
        return self.by_name()


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def feast_objects(groups: Iterable[FeatureGroup], data_dir: str | Path, outputs: Mapping[str, pa.Schema] | None = None) -> FeastObjects:
    """The Feast objects of ``groups``.

    A view holds the group's aggregates, its graph's ``outputs`` (by group name, see :func:`load_outputs`), the revision and
    the fingerprint. Its source is the Parquet of all runs under ``data_dir`` (relative to the feature repository, or absolute).
    Where the graph is known, view and source carry its fingerprint as a tag, and the offline store reads the rows of that graph alone.
    """
    entities: dict[str, Entity] = {}
    sources, views = [], []
    for group in groups:
        kept = outputs.get(group.name) if outputs else None
        tags = {DEFINITION: group.definition_hash()}
        if kept is not None and kept.metadata and (fingerprint := kept.metadata.get(FINGERPRINT.encode())):
            tags[FINGERPRINT] = fingerprint.decode()
        for key in group.key_fields:
            kind = ValueType.INT64 if key.dtype == "int64" else ValueType.STRING
            known = entities.setdefault(key.name, Entity(name=key.name, join_keys=[key.name], value_type=kind, description=key.description))
            if known.value_type != kind:
                raise DefinitionError(f"entity key {key.name!r} is int64 in one source and string in another; give both the same dtype")
        source = FileSource(
            name=f"{group.name}_rows",
            path=f"{str(data_dir).rstrip('/')}/offline/{group.name}/run=*/*/*.parquet",
            file_format=ParquetFormat(),
            timestamp_field=EVENT_TIMESTAMP,
            created_timestamp_column=CREATED,
            tags=tags,
        )
        row = [f for f in group.row_schema if f.name not in (EVENT_TIMESTAMP, REVISION)]
        names = {f.name for f in row}
        # An output of the name of an aggregate is of a graph of before: batch refuses to make one, and the next run makes another.
        made_of_graph = [f for f in kept or () if f.name not in names]
        columns = [*row, *made_of_graph, pa.field(REVISION, pa.int64()), pa.field(FINGERPRINT, pa.string())]
        made = FeatureView if group.preprocessing_fn is None else GroupView
        views.append(
            made(
                name=group.name,
                entities=[entities[k] for k in group.entity.keys],
                ttl=group.ttl or timedelta(0),  # Feast's way to say never
                online=True,
                source=source,
                tags=tags,
                description=group.description,
                schema=[Field(name=f.name, dtype=feast_type(f.type)) for f in columns],
            )
        )
        sources.append(source)
    return FeastObjects(list(entities.values()), sources, views)


def load_outputs(data_dir: str | Path, groups: Iterable[FeatureGroup], damaged: bool = False) -> dict[str, pa.Schema]:
    """The outputs of the applied graph of each group that has one, by ``graphs/<group>/CURRENT``; their metadata holds its fingerprint.

    Raises GraphError for one that cannot be read; ``damaged``: its group is left out, as if none were applied.
    """
    out: dict[str, pa.Schema] = {}
    for group in groups:
        folder = graphs(Path(data_dir))
        fingerprint = applied_graph(folder, group.name)
        if fingerprint is None:
            continue
        path = folder / group.name / fingerprint / SPEC_FILE
        try:
            made = json.loads(path.read_text())
            fields = [pa.field(name, _arrow_type(kind)) for name, kind, *_ in made.get("outputs", [])]
        except (OSError, ValueError, TypeError, AttributeError) as e:
            if damaged:
                continue
            raise GraphError(
                f"graph of {group.name!r}: {path} cannot be read ({' '.join(str(e).split())[:120]}); run the batch job again"
            ) from e
        out[group.name] = pa.schema(fields, metadata={FINGERPRINT: fingerprint})
    return out


def feast_type(kind: pa.DataType) -> Any:
    """Feast's type of an Arrow type. Feast keeps timestamps online as whole seconds."""
    if pa.types.is_list(kind):
        return Array(feast_type(kind.value_type))
    if pa.types.is_timestamp(kind):
        return UnixTimestamp
    for known, made in _TYPES:
        if kind == known:
            return made
    raise DefinitionError(
        f"a feature of Arrow type {kind} cannot be kept in Feast; make it string, int64, float32, float64, bool or timestamp"
    )


def _arrow_type(name: str) -> pa.DataType:
    if found := re.fullmatch(r"(?:list|large_list)<(?:\w+: )?(.+?)(?: not null)?>", name):
        return pa.list_(_arrow_type(found[1]))
    if name.startswith("timestamp["):
        return pa.timestamp("us", tz="UTC")
    if name not in _NAMES:
        raise ValueError(f"unknown Arrow type {name!r}")
    return _NAMES[name]
