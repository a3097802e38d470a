"""What a plan's steps come to for inputs of known shapes, some of which are known themselves: shapes and all that follows from them are
computed once, not at each run; and what a kernel gave is remembered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transforms.plan.kernels import EACH, WORD_KERNELS, as_tensor

__all__ = ["TO_ARRAY", "TO_TENSOR", "Step", "remembering", "settled"]

TO_TENSOR, TO_ARRAY = "to a tensor", "to an array"
"""In place of an operation's name: a step that only turns an array into a tensor, or back."""
_REMEMBERED, _REMEMBERED_BYTES = 8192, 256
"""How many results of all kernels of a plan are remembered, and of how many bytes both arguments and result are at most: those of a row,
padded. With what Python spends on each, less than 8 MB."""


class Step(NamedTuple):
    """One call: ``function`` of the values in the slots ``inputs``; the result goes to the slot ``output``. ``op`` is TensorFlow's name."""

    function: Callable[..., Any]
    inputs: tuple[int, ...]
    output: int
    op: str


_OF_SHAPE = frozenset({"Shape", "Size", "Rank", "ZerosLike", "OnesLike"})
"""Their result follows from their argument's shape alone."""
_EACH = """Abs Add AddV2 Cast Ceil Div DivNoNan Equal Floor FloorDiv FloorMod Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual
LogicalAnd LogicalNot LogicalOr LookupTableFindV2 Maximum Minimum Mul MulNoNan Neg NotEqual Pack RealDiv ResourceGather Select SelectV2
Sqrt Square SquaredDifference Squeeze Sub Bucketize UpperBound LowerBound AddN BiasAdd StopGradient Snapshot PreventGradient StringStrip"""
_BY_AXIS = "All Any BroadcastTo ExpandDims Max Mean Min OneHot Prod Reshape Sum Tile Transpose"
_BY: dict[str, tuple[int, ...]] = {
    **dict.fromkeys([TO_TENSOR, TO_ARRAY, *_EACH.split(), *EACH, *WORD_KERNELS], ()),
    **dict.fromkeys(_BY_AXIS.split(), (1,)),
    "ConcatV2": (-1,),
    "Fill": (0,),
    "GatherV2": (2,),
    "ScatterNd": (2,),
    "Slice": (1, 2),
    "SparseToDense": (1,),
    "StridedSlice": (1, 2, 3),
}
"""Operations whose result's shape follows from their arguments' shapes and from the values of those at these positions. No others do."""


def settled(
    steps: Sequence[Step], before: Sequence[Any], after: Sequence[Any], fixed: Collection[int], inputs: Collection[int]
) -> tuple[list[Step], dict[int, int], set[int]]:
    """(the steps that are left, which slots hold the value of another one, the slots whose value in ``after`` is that of every run).

    ``before`` are the slots as a run begins, None where a value is not constant, ``after`` those of one run. Every run that this is for
    has the shapes of that run in the slots ``inputs``, and its values in ``fixed``.
    """
    known = {place for place, value in enumerate(before) if value is not None} | set(fixed)
    shaped = known | set(inputs)
    instead: dict[int, int] = {}
    left = []
    for step in steps:
        given = tuple(instead.get(place, place) for place in step.inputs)
        if known.issuperset(given) or (step.op in _OF_SHAPE and given[0] in shaped):
            known.add(step.output)
            shaped.add(step.output)
            continue
        other = _same_as(step.op, given, known, after)
        if other is not None and other in shaped and _alike(after[other], after[step.output]):
            instead[step.output] = other
            continue
        by = _BY.get(step.op)
        if by is not None and shaped.issuperset(given) and all(given[at] in known for at in by):
            shaped.add(step.output)
        left.append(step._replace(inputs=given))
    return left, instead, known


def _same_as(op: str, given: tuple[int, ...], known: Collection[int], after: Sequence[Any]) -> int | None:
    """The argument that is the result, if their shapes are the same."""
    if op == "Reshape" and given[1] in known:
        return given[0]
    if op in ("Select", "SelectV2") and given[0] in known:
        chosen = after[given[0]]
        return given[1] if chosen.all() else None if chosen.any() else given[2]
    return None


def _alike(a: Any, b: Any) -> bool:
    return getattr(a, "shape", None) == getattr(b, "shape", 0) and a.dtype == b.dtype


def remembering(
    steps: Sequence[Step], slots: list[Any], known: Collection[int], memory: dict[Hashable, Any]
) -> tuple[list[Step], dict[int, int]]:
    """(the steps, with kernels that compute each number alone as functions of arrays that remember what they gave; as by :func:`settled`,
    which slots hold the value of another one). ``slots``, whose ``known`` ones are constant, grow by those that the new steps need.

    A kernel takes tens of times as long as a look for its result, and values come again: counts, hours, prices. For few rows alone.
    ``memory`` keeps the results, by their step's slot and the arguments, for all programs of a plan. A tensor that nobody needs is left for
    who drops steps that are not used.
    """
    arrays: dict[int, int] = {}
    instead: dict[int, int] = {}
    made = []
    for step in steps:
        given = tuple(instead.get(place, place) for place in step.inputs)
        if step.op == TO_ARRAY and given[0] in arrays:
            instead[step.output] = arrays[given[0]]
            continue
        if step.op == TO_TENSOR:
            arrays[step.output] = given[0]
        if step.op not in EACH or not all(place in arrays or place in known for place in given):
            made.append(step._replace(inputs=given))
            continue
        for place in given:
            if place not in arrays:
                slots.append(np.asarray(slots[place]))
                arrays[place] = len(slots) - 1
        function = _remembered(step.function, step.output, memory)
        slots.append(None)
        arrays[step.output] = len(slots) - 1
        made.append(Step(function, tuple(arrays[place] for place in given), arrays[step.output], step.op))
        made.append(Step(as_tensor, (arrays[step.output],), step.output, TO_TENSOR))
    return made, instead


def _remembered(kernel: Callable[..., Any], slot: int, memory: dict[Hashable, Any]) -> Callable[..., Any]:
    def call(*arrays: Any) -> Any:
        if sum(a.nbytes for a in arrays) > _REMEMBERED_BYTES:
            return kernel(*(as_tensor(a) for a in arrays)).numpy()
        key = (slot, *((a.tobytes(), a.shape) for a in arrays))
        found = memory.get(key)
        if found is None:
            found = kernel(*(as_tensor(a) for a in arrays)).numpy()
            found.flags.writeable = False
            if found.nbytes <= _REMEMBERED_BYTES:
                if len(memory) >= _REMEMBERED:
                    memory.clear()
                memory[key] = found
        return found

    return call
