"""One expression language: computed fields, ``where`` of sources, filters of aggregates. Write it with what stands here.

:mod:`~transforms.expressions.language` is what people write, :mod:`~transforms.expressions.formula` what definitions keep of it,
:mod:`~transforms.expressions.binding` every operation with its types; the kernels compute columns, each row for itself.
"""

from __future__ import annotations

from transforms.expressions.formula import Formula
from transforms.expressions.language import (
    Expression,
    When,
    case,
    coalesce,
    col,
    concat,
    formula_of,
    lit,
    max_of,
    min_of,
    seconds_between,
    when,
)
from transforms.expressions.predicate import Predicate

__all__ = [
    "Expression",
    "Formula",
    "Predicate",
    "When",
    "case",
    "coalesce",
    "col",
    "concat",
    "formula_of",
    "lit",
    "max_of",
    "min_of",
    "seconds_between",
    "when",
]
