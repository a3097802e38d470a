"""TensorFlow functions as lists of numpy calls, for small batches: what TensorFlow itself spends there is overhead, not arithmetic.

:func:`compiled` makes a :class:`Plan` of a concrete function. numpy does what is exact by definition (IEEE arithmetic, comparisons,
integers, shapes, tables of words); whatever depends on how a kernel is written (``log1p``, ``exp``, sums of floats, matrix products) is
a call of TensorFlow's own kernel. A plan stands for its function only after it gave the same bits on samples:
:func:`checked`.
"""

from transforms.plan.check import SampleRow, checked
from transforms.plan.compiler import REWRITES, Plan, compiled
from transforms.plan.nodes import UnsupportedError

__all__ = ["REWRITES", "Plan", "SampleRow", "UnsupportedError", "checked", "compiled"]
