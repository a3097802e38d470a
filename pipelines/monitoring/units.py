"""Whether a feature came in another unit: seconds for minutes, Celsius for Fahrenheit, per cent for shares.

A unit is suspected if the values, taken back by the conversion, are much nearer to the baseline than as they are. Nearness is the
Kolmogorov-Smirnov distance (the greatest difference between the two cumulative distributions), which no monotone change of scale of both
can alter. With a known unit (``Field(unit="min")``) the conversions are those to every other unit of its kind; without one,
factors that turn up in practice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.projections import FeatureSet
from transforms.definitions import FeatureGroup

__all__ = ["Suspect", "conversions", "distance", "suspect_unit"]

Floats = npt.NDArray[np.float64]

KINDS: dict[str, dict[str, tuple[float, float]]] = {
    # unit -> (factor, offset): value in the kind's base unit = value * factor + offset
    "time": {
        "nanoseconds": (1e-9, 0), "microseconds": (1e-6, 0), "milliseconds": (1e-3, 0), "seconds": (1, 0), "minutes": (60, 0),
        "hours": (3600, 0), "days": (86400, 0),
    },
    "length": {
        "millimetres": (1e-3, 0), "centimetres": (1e-2, 0), "inches": (0.0254, 0), "feet": (0.3048, 0), "metres": (1, 0),
        "kilometres": (1000, 0), "miles": (1609.344, 0), "nautical miles": (1852, 0),
    },
    "speed": {"metres per second": (1, 0), "km/h": (1 / 3.6, 0), "mph": (0.44704, 0), "knots": (1852 / 3600, 0)},
    "mass": {
        "milligrams": (1e-6, 0), "grams": (1e-3, 0), "ounces": (0.0283495, 0), "pounds": (0.45359237, 0), "kilograms": (1, 0),
        "tonnes": (1000, 0),
    },
    "temperature": {"Celsius": (1, 0), "Kelvin": (1, -273.15), "Fahrenheit": (5 / 9, -160 / 9)},
    "pressure": {"Pa": (1, 0), "hPa": (100, 0), "kPa": (1000, 0), "bar": (1e5, 0), "mmHg": (133.322, 0), "inHg": (3386.39, 0)},
    "share": {"shares of 1": (1, 0), "per cent": (0.01, 0), "per mille": (0.001, 0)},
    "money": {"cents": (0.01, 0), "whole units of money": (1, 0), "thousands": (1000, 0)},
    "data": {"bytes": (1, 0), "KB": (1e3, 0), "MB": (1e6, 0), "GB": (1e9, 0)},
}  # fmt: skip
NAMES = {
    "ns": "nanoseconds", "us": "microseconds", "ms": "milliseconds", "s": "seconds", "sec": "seconds", "second": "seconds",
    "min": "minutes", "minute": "minutes", "h": "hours", "hr": "hours", "hour": "hours", "d": "days", "day": "days",
    "mm": "millimetres", "cm": "centimetres", "in": "inches", "inch": "inches", "ft": "feet", "m": "metres", "meters": "metres",
    "km": "kilometres", "mi": "miles", "mile": "miles", "nmi": "nautical miles", "m/s": "metres per second", "kmh": "km/h", "kph": "km/h",
    "kn": "knots", "kt": "knots", "mg": "milligrams", "g": "grams", "oz": "ounces", "lb": "pounds", "lbs": "pounds", "kg": "kilograms",
    "t": "tonnes", "C": "Celsius", "degC": "Celsius", "°C": "Celsius", "K": "Kelvin", "F": "Fahrenheit", "degF": "Fahrenheit",
    "°F": "Fahrenheit", "mbar": "hPa", "%": "per cent", "percent": "per cent", "share": "shares of 1", "cent": "cents",
    "EUR": "whole units of money", "USD": "whole units of money", "B": "bytes",
}  # fmt: skip
FACTORS = (60.0, 3600.0, 86400.0, 1e3, 1e6, 1e9, 100.0, 24.0, 0.3048, 1.609344, 1.852, 2.54, 0.45359237, 3.6)
"""Without a known unit; each and its inverse."""
_FAR = 0.2
"""Nearer than this, the values are as they were: nothing to explain."""
_BETTER = 0.4
"""The conversion must leave no more than this share of the distance."""
_ROWS = 30


@dataclass(frozen=True)
class Suspect:
    """``value = baseline * factor + offset`` explains the values: ``text`` says it, ``before`` and ``after`` are the distances from the
    baseline as the values are, and when taken back."""

    factor: float
    offset: float
    text: str
    before: float
    after: float


def distance(one: Floats, other: Floats) -> float:
    """Kolmogorov-Smirnov: the greatest difference between the cumulative distributions of [n] and [m] values, in [0, 1]."""
    both = np.concatenate([one, other])
    a, b = (np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (one, other))
    return float(np.abs(a - b).max())


def conversions(unit: str) -> list[tuple[float, float, str]]:
    """(factor, offset, words) of what values of ``unit`` become in other units of its kind; the general factors for an unknown one."""
    name = NAMES.get(unit, unit)
    for units in KINDS.values():
        if name in units:
            scale, shift = units[name]
            return [(scale / s, (shift - o) / s, f"{other} for {name}") for other, (s, o) in units.items() if other != name]
    out = []
    for factor in FACTORS:
        out += [(factor, 0.0, f"{factor:g} times what it was"), (1 / factor, 0.0, f"1/{factor:g} of what it was")]
    return out


def suspect_unit(baseline: Floats, values: Floats, unit: str = "") -> Suspect | None:
    """The conversion that brings ``values`` [n] back to ``baseline`` [m], or None: too few values, nothing to explain, no conversion."""
    if len(values) < _ROWS or len(baseline) < _ROWS:
        return None
    before = distance(baseline, values)
    if before < _FAR:
        return None
    best: Suspect | None = None
    for factor, offset, words in conversions(unit):
        after = distance(baseline, (values - offset) / factor)
        if best is None or after < best.after:
            best = Suspect(factor, offset, f"looks like {words}", before, after)
    return best if best is not None and best.after <= _BETTER * before else None


def fields_of(groups: Mapping[str, FeatureGroup], read: FeatureSet) -> dict[str, tuple[str, str]]:
    """``view__feature`` -> (``source.field``, unit) of the features that bear the unit of the field they are made of, by the names of the
    views in ``read``."""
    out = {}
    for view in read.names:
        group = groups.get(read.projection(view).view)
        if group is None:
            continue
        for feature in group.features:
            a = feature.aggregate
            if a.column is None or not a.keeps_unit:
                continue
            field = group.source.field(a.column)
            out[f"{view}__{feature.name}"] = (f"{group.source.name}.{field.name}", field.unit)
    return out
