"""What a model is: its labelled requests, its features, how it is split, judged and sliced. Light: no TensorFlow, no Feast."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from transforms.definitions import Field, micros
from transforms.errors import ConfigError, DefinitionError

__all__ = ["Column", "Model", "Threshold"]

METRICS = ("auc", "log_loss")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Threshold:
    """What a model must reach on the held-out split before it is pushed.

    ``metric`` is ``"auc"`` (higher is better) or ``"log_loss"`` (lower is better). ``bound`` is the worst value allowed.
    ``slack_to_blessed`` is how much worse than the blessed model it may be, ``slack_to_plain`` how much worse than the
    model that sees the request fields alone; None: not compared.

    ``tandem promote`` holds a version to the same ``bound``, and to being no worse than the champion by more than
    ``slack_to_champion`` (by default ``slack_to_blessed``). ``slice_bound`` and ``slack_per_slice`` say the same of each slice of
    the model's ``slices`` that has at least ``slice_min_rows`` held-out rows, and ten of each class: one of twelve requests is no verdict.
    """

    metric: Literal["auc", "log_loss"]
    bound: float | None = None
    slack_to_blessed: float | None = None
    slack_to_plain: float | None = None
    slack_to_champion: float | None = None
    slice_bound: float | None = None
    slack_per_slice: float | None = None
    slice_min_rows: int = 200

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise DefinitionError(f"threshold {self.metric!r}: unknown metric; use one of {', '.join(METRICS)}")
        asked = (self.bound, self.slack_to_blessed, self.slack_to_plain, self.slack_to_champion, self.slice_bound, self.slack_per_slice)
        if all(one is None for one in asked):
            raise DefinitionError(f"threshold {self.metric!r} has no condition; give bound=, slack_to_blessed= or slack_to_plain=")
        for slack in (self.slack_to_blessed, self.slack_to_plain, self.slack_to_champion, self.slack_per_slice):
            if slack is not None and slack < 0:
                raise DefinitionError(f"threshold {self.metric!r}: slack {slack} is negative; 0 means 'not worse'")
        if self.slice_min_rows < 1:
            raise DefinitionError(f"threshold {self.metric!r}: slice_min_rows {self.slice_min_rows} must be at least 1")


@dataclass(frozen=True)
class Column:
    """One raw input of a model: a tensor of shape [n, 1].

    ``dtype`` is that of the tensor. ``"float32"`` holds null as NaN, ``"string"`` holds null as b""; ``"int64"`` is
    never null. ``view`` is the Feast view of a feature and empty for a request field.
    """

    name: str
    dtype: Literal["string", "int64", "float32"]
    view: str = ""
    feature: str = ""

    @property
    def is_request(self) -> bool:
        """True for a request field, False for a Feast feature."""
        return not self.view


@dataclass(frozen=True)
class Model:
    """A binary classifier over request fields and Feast features.

    ``spine`` is ``"module:function"`` in the feature repository: ``(data_dir: Path, start: datetime, end: datetime) ->
    pa.Table`` with one row per labelled request asked in [start, end): ``event_timestamp`` (UTC), the entity keys, the
    request fields, the label (0 or 1) and, if named, the weight. ``features`` is the name of a Feast feature service or
    a list of ``"view:feature"``. ``split`` says where eval and test begin: two shares of the rows in order of time, or
    two moments. Rows asked less than ``label_delay`` before a border are left out: at the border their labels
    were not known yet. ``preprocessing_fn`` (TF-Transform over the request fields alone) and ``run_fn`` follow TFX.
    ``params`` are what ``run_fn`` finds in ``job.params`` and ``tandem train --set`` changes: names, and values that say the type.
    """

    name: str
    spine: str
    label: str
    entity_keys: Sequence[str]
    request_fields: Sequence[Field]
    features: str | Sequence[str]
    preprocessing_fn: str = "model:preprocessing_fn"
    run_fn: str = "model:run_fn"
    split: tuple[float, float] | tuple[datetime, datetime] = (0.7, 0.85)
    label_delay: timedelta = timedelta(0)
    thresholds: Sequence[Threshold] = (Threshold("auc", bound=0.5, slack_to_blessed=0.0, slack_to_plain=0.0),)
    slices: Sequence[str] = ()
    weight: str | None = None
    description: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise DefinitionError(f"model {self.name!r}: a name is lower-case words joined by single underscores, e.g. 'late_flights'")
        what = f"model {self.name!r}"
        for key in ("spine", "preprocessing_fn", "run_fn"):
            value = getattr(self, key)
            if not isinstance(value, str) or not _FUNCTION.fullmatch(value):
                raise DefinitionError(f"{what}: {key} {value!r} is not of the form 'module:function'")
        for key in ("entity_keys", "request_fields", "thresholds", "slices"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        object.__setattr__(self, "params", dict(self.params))
        for name, value in self.params.items():
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name) or not isinstance(value, (bool, int, float, str)):
                raise DefinitionError(f"{what}: params {name!r}: {value!r} is not a name with a number, boolean or string")
        if not isinstance(self.features, str):
            object.__setattr__(self, "features", tuple(self.features))
            for ref in self.features:
                if not re.fullmatch(r"\w+:\w+", ref):
                    raise DefinitionError(f"{what}: feature {ref!r} is not of the form 'view:feature'")
        if not self.features:
            raise DefinitionError(f"{what}: no features; name a Feast feature service or list 'view:feature'")
        if not self.request_fields:
            raise DefinitionError(f"{what}: no request fields; the comparison with a model without stored features needs at least one")
        seen: set[str] = set()
        for f in self.request_fields:
            if not isinstance(f, Field) or f.dtype not in ("string", "int64", "float64", "bool"):
                raise DefinitionError(f"{what}: request field {f!r} must be a Field of dtype string, int64, float64 or bool")
            if f.name in seen or f.name in (self.label, self.weight):
                raise DefinitionError(f"{what}: {f.name!r} is given twice; request fields, label and weight need distinct names")
            seen.add(f.name)
        for name in self.slices:
            if name not in seen:
                raise DefinitionError(f"{what}: slice {name!r} is not a request field; the model has {', '.join(sorted(seen))}")
        if not self.thresholds:
            raise DefinitionError(f"{what}: without thresholds nothing is ever pushed; give at least Threshold('auc', bound=0.5)")
        if len({t.metric for t in self.thresholds}) != len(self.thresholds):
            raise DefinitionError(f"{what}: a metric has two thresholds; join them into one Threshold")
        if micros(self.label_delay) < 0:
            raise DefinitionError(f"{what}: label_delay {self.label_delay} is negative; it is how long a label takes to be known")
        first, second = self.split
        if isinstance(first, datetime) and isinstance(second, datetime):
            if first.tzinfo is None or second.tzinfo is None or first >= second:
                raise DefinitionError(f"{what}: split {first}, {second} must be two rising moments with a time zone, e.g. tzinfo=UTC")
        elif isinstance(first, datetime) or isinstance(second, datetime) or not 0 < first < second < 1:
            raise DefinitionError(f"{what}: split {self.split!r} must be two rising shares like (0.7, 0.85) or two moments")

    @property
    def request_columns(self) -> tuple[Column, ...]:
        """The request fields as model inputs: string stays, a required int64 stays, other numbers become float32."""
        return tuple(Column(f.name, input_dtype(f.dtype or "", f.required)) for f in self.request_fields)

    def with_params(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a training: those declared, and ``changes`` over them, each (also as text) in the type of its default.

        Raises ConfigError, one line, for a name that the model does not declare and a value of another type.
        """
        out = dict(self.params)
        for name, value in changes.items():
            if name not in out:
                known = ", ".join(sorted(out)) or "none: declare them in Model(params={...}) and read them from job.params in run_fn"
                raise ConfigError(f"--set {name}: model {self.name!r} has no such parameter; it has {known}")
            out[name] = _typed(name, value, out[name])
        return out

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of what decides the training set."""
        return {
            "name": self.name,
            "label": self.label,
            "weight": self.weight,
            "entity_keys": list(self.entity_keys),
            "request_fields": [[f.name, f.dtype, f.required] for f in self.request_fields],
            "features": self.features if isinstance(self.features, str) else list(self.features),
            "split": [s.astimezone(UTC).isoformat() if isinstance(s, datetime) else s for s in self.split],
            "label_delay": micros(self.label_delay),
        }


def _typed(name: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; texts are read. Raises ConfigError."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        if kind is int and not isinstance(value, str) and value != int(value):
            raise ValueError
        out = kind(value)
        if kind is float and not math.isfinite(out):
            raise ValueError
        return out
    except (KeyError, ValueError, TypeError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise ConfigError(f"--set {name}={value}: the parameter is {kinds[kind]}, such as its default {default!r}") from None


def input_dtype(dtype: str, required: bool = False) -> Literal["string", "int64", "float32"]:
    """The dtype of the tensor for a value of ``dtype``."""
    if dtype == "string":
        return "string"
    return "int64" if dtype == "int64" and required else "float32"
