"""The aggregates, one file for each family, and what it takes to write one: see :mod:`transforms.functions.aggregate`."""

from __future__ import annotations

from transforms.functions.aggregate import Aggregate, Events, Output, State, StateSpec
from transforms.functions.count import Count, Counts
from transforms.functions.count_distinct import CountDistinct, Distinct
from transforms.functions.extremes import Age, Greatest, Max, Min, Newest, Smallest
from transforms.functions.ordered import Earliest, First, Last, LastN, Latest
from transforms.functions.quantile import Histogram, Quantile
from transforms.functions.sums import Mean, Squares, Std, Sum, Sums, Variance
from transforms.functions.top_k import TopK, ValueCounts

__all__ = [
    "AGGREGATES",
    "Age",
    "Aggregate",
    "Count",
    "CountDistinct",
    "Distinct",
    "Counts",
    "Earliest",
    "Events",
    "First",
    "Greatest",
    "Histogram",
    "Last",
    "LastN",
    "Latest",
    "Max",
    "Mean",
    "Min",
    "Newest",
    "Output",
    "Quantile",
    "Smallest",
    "Squares",
    "State",
    "StateSpec",
    "Std",
    "Sum",
    "Sums",
    "TopK",
    "ValueCounts",
    "Variance",
]

AGGREGATES: tuple[type[Aggregate], ...] = (
    Count,
    Sum,
    Mean,
    Variance,
    Std,
    Min,
    Max,
    First,
    Last,
    LastN,
    TopK,
    Age,
    CountDistinct,
    Quantile,
)
"""Those that come with Tandem; a feature repository or a package may bring others."""
