"""A concrete function of TensorFlow, compiled to a :class:`Plan`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.plan.flush import Flushed, can_flush
from transforms.plan.kernels import WORD_KERNELS, as_tensor, kernel, word_kernel
from transforms.plan.lookup_operations import OPERATIONS
from transforms.plan.nodes import Node, Ref, UnsupportedError, flattened
from transforms.plan.settled import TO_ARRAY, TO_TENSOR, Step, remembering, settled
from transforms.tensors import one_nan

__all__ = ["Plan", "compiled"]

Array = npt.NDArray[Any]
MOST_WORDS = 1_000_000
"""Entries of a table that a plan keeps as a dict of its own: some 150 bytes each."""
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Conv1D", "Conv2D")
_SAMPLE_ROWS = 16
_KNOWN = 200
_MOST_SETTLED = 256
"""Of how many kinds of inputs a plan keeps a program: of rows, which of their values are null."""


class _Program:
    """Steps over slots of their own: ``slots`` as a run begins, which slot takes which input, and which slots hold the outputs."""

    def __init__(self, steps: Sequence[Step], slots: list[Any], inputs: Sequence[tuple[int, int]], outputs: Sequence[int]) -> None:
        self.steps = tuple((s.function, itemgetter(*s.inputs), len(s.inputs) > 1, s.output) for s in steps)
        self.slots, self.inputs, self.outputs = slots, tuple(inputs), tuple(outputs)

    def run(self, arrays: Sequence[Array]) -> list[Any]:
        """The slots after the run."""
        slots = self.slots.copy()
        for place, i in self.inputs:
            slots[place] = arrays[i]
        with Flushed(), np.errstate(all="ignore"):
            for function, arguments, several, output in self.steps:
                given = arguments(slots)
                slots[output] = function(*given) if several else function(given)
        return slots


class Plan:
    """A function of arrays that gives what a concrete function gives. Safe to call from many threads: what it keeps are programs, which
    follow from the shapes and fixed values of inputs that are ``alike``, and results of kernels by the bits of their arguments, so that
    whoever makes one makes the same. Of both it keeps so many at most."""

    def __init__(self, steps: Sequence[Step], slots: list[Any], inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self._steps = tuple(steps)
        self._whole = _Program(steps, slots, [(place, i) for i, place in enumerate(inputs)], outputs)
        self._settled: dict[Hashable, _Program] = {}
        self._memory: dict[Hashable, Any] = {}
        self.known_fractions: list[float] = []
        self.known_words: list[bytes] = []
        """Constants and words of the function: samples are taken from them."""

    @property
    def steps(self) -> int:
        """How many calls of numpy or of TensorFlow's kernels one run takes."""
        return len(self._steps)

    def run(self, arrays: Sequence[Array], alike: Hashable = None, fixed: Sequence[int] = ()) -> list[Array]:
        """The function's flat outputs for its flat inputs: arrays of the dtypes and shapes that it takes; strings as objects (bytes).

        All runs that are given the same ``alike`` (not None) have inputs of the same shapes, and the same values in the inputs at the
        positions ``fixed``: what follows from these is computed once, and what kernels gave is remembered. For few rows. Outputs may share
        memory with inputs and with those of other runs: do not write to them.
        Raises whatever a step raises over arguments that the function itself would fail on; ask TensorFlow then, it says why.
        """
        program = self._whole if alike is None else self._settled.get(alike) or self._settle(arrays, alike, fixed)
        slots = program.run(arrays)
        return [np.asarray(slots[place]) for place in program.outputs]

    def _settle(self, arrays: Sequence[Array], alike: Hashable, fixed: Sequence[int]) -> _Program:
        """The program for these shapes; once there are many, the one for all."""
        whole = self._whole
        if len(self._settled) >= _MOST_SETTLED:
            return whole
        slots = whole.run(arrays)
        places = [place for place, _ in whole.inputs]
        steps, same, known = settled(self._steps, whole.slots, slots, [places[i] for i in fixed], places)
        kept = [value if place in known else None for place, value in enumerate(slots)]
        steps, too = remembering(steps, kept, known, self._memory)
        outputs = [same.get(place, place) for place in whole.outputs]
        outputs = [too.get(place, place) for place in outputs]
        used = _used(steps, outputs)
        needed = {place for step in used for place in step.inputs} | set(outputs)
        kept = [value if place in needed else None for place, value in enumerate(kept)]
        inputs = [(place, i) for place, i in whole.inputs if place in needed and place not in known]
        program = self._settled[alike] = _Program(used, kept, inputs, outputs)
        return program

    def first_difference(
        self, arrays: Sequence[Array], expected: Sequence[Array], alike: Hashable = None, fixed: Sequence[int] = ()
    ) -> str:
        """How what it gives differs from what the function gave for the same arrays, in dtype, shape or a bit (of what is not a number, in
        that it is none); empty where nothing does.
        ``alike`` and ``fixed`` are those of :meth:`run`."""
        try:
            found = self.run(arrays, alike, fixed)
        except Exception as error:
            return f"it fails where TensorFlow does not: {type(error).__name__} {error}"
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
                return f"output {i} is {mine.dtype} {mine.shape}, not {theirs.dtype} {theirs.shape}"
            same = mine == theirs if mine.dtype == object else _bits(mine) == _bits(theirs)
            if not np.all(same):
                at = int(np.flatnonzero(~np.ravel(same))[0])
                a, b = (x.ravel()[at : at + 1].tolist()[0] for x in (mine, theirs))
                return f"output {i} is {a!r}, not {b!r}, in one of {np.size(same)} samples"
        return ""


def _bits(values: Array) -> Array:
    values = np.ascontiguousarray(one_nan(values))
    return values.view(f"u{values.dtype.itemsize}") if values.dtype.kind == "f" else values


def _used(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """Those that the slots ``outputs`` need."""
    used, needed = [], set(outputs)
    for step in reversed(steps):
        if step.output in needed:
            used.append(step)
            needed.update(step.inputs)
    return used[::-1]


REWRITES: tuple[frozenset[str], ...] = (frozenset({"literals"}), frozenset({"literals", "roots"}), frozenset())
"""What TensorFlow's optimizer does to divisions in one function and not in another, which of these it was only samples tell: by a literal,
it multiplies with the reciprocal; by a root, with ``rsqrt``. Both have other bits."""


def compiled(function: Any, rewrites: frozenset[str] = REWRITES[0]) -> Plan:
    """A plan of a concrete function (what it captures is read now). Raises UnsupportedError where one cannot be made."""
    if not can_flush():
        raise UnsupportedError("this machine's float arithmetic cannot be set as TensorFlow's is")
    captured = {inner.name.partition(":")[0]: outer for outer, inner in function.graph.captures}
    names = [t.name.partition(":")[0] for t in function.inputs]
    nodes, refs, placeholders = flattened(function.graph.as_graph_def(), [t.name for t in function.outputs])
    compiler = _Compiler(nodes, {placeholders[n]: outer for n, outer in captured.items() if n in placeholders}, rewrites)
    inputs = [(placeholders.get(name, -1), spec) for name, spec in zip(names, function.inputs, strict=True) if name not in captured]
    return compiler.plan(inputs, refs)


class _Compiler:
    """Numbers values: each is an array, or the tensor that holds it, in a slot of its own; what is constant is computed now."""

    def __init__(self, nodes: list[Node], captured: Mapping[int, Any], rewrites: frozenset[str]) -> None:
        self.nodes = nodes
        self.rewrites = rewrites
        self.captured = captured
        self.slots: list[Any] = []
        self.constant: list[bool] = []
        self.steps: list[Step] = []
        self.arrays: dict[Ref, int] = {}
        self.tensors: dict[Ref, int] = {}
        self.known: dict[Any, Ref] = {}
        self.same: dict[Ref, Ref] = {}

    def plan(self, inputs: Sequence[tuple[int, Any]], outputs: Sequence[Ref]) -> Plan:
        """The plan for the placeholders ``inputs``, (number, TensorSpec), in this order."""
        places = []
        for number, _ in inputs:
            place = self._slot(None, constant=False)
            self.arrays[number, 0] = place
            places.append(place)
        last = self._last_nodes()
        for node in self.nodes:
            if (node.number, 0) not in self.arrays and node.number not in last:
                self._node(node)
        if last:
            self._tail(last, [r for r in outputs if r[0] in last], places, [spec for _, spec in inputs])
        return self._planned(places, [self._array(ref) for ref in outputs])

    def _planned(self, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
        """What the slots ``outputs`` need."""
        plan = Plan(_used(self.steps, outputs), self.slots, inputs, outputs)
        for value in self.slots:
            if isinstance(value, dict):
                plan.known_words += [word for word in list(value)[:_KNOWN] if isinstance(word, bytes)]
            elif isinstance(value, np.ndarray) and value.dtype == np.float32:
                plan.known_fractions += value.ravel()[:_KNOWN].tolist()
        return plan

    def _last_nodes(self) -> set[int]:
        """The nodes from the first matrix products on."""
        last: set[int] = set()
        for node in self.nodes:
            if node.op in _PRODUCTS or any(number in last for number, _ in node.inputs):
                last.add(node.number)
        return last

    def _tail(self, last: set[int], outputs: Sequence[Ref], places: Sequence[int], specs: Sequence[Any]) -> None:
        """One function of TensorFlow for the nodes ``last``: it fuses a product with what follows, which changes how a sum is added up."""
        import tensorflow as tf

        nodes = [node for node in self.nodes if node.number in last]
        taken = list(dict.fromkeys(self._first(r) for node in nodes for r in node.inputs if self._first(r)[0] not in last))
        given = [r for r in taken if not self.constant[self._array(r)]]
        samples = self._planned(places, [self._array(r) for r in given]).run([_sample(spec) for spec in specs])
        signature = [tf.TensorSpec([None, *s.shape[1:]] if s.ndim else [], s.dtype) for s in samples]
        fixed = {r: as_tensor(self.slots[self._array(r)]) for r in taken if r not in given and self.nodes[r[0]].op != "Const"}
        kernels = [kernel(node, any_operation=True) for node in nodes]

        def run(*tensors: Any) -> list[Any]:
            values = dict(zip(given, tensors, strict=True)) | fixed
            values |= {r: tf.constant(self.slots[self._array(r)]) for r in taken if r not in values}  # a literal is one here too
            for node, call in zip(nodes, kernels, strict=True):
                values[node.number, 0] = call(*(values[self._first(r)] for r in node.inputs))
            return [values[r] for r in outputs]

        function = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
        whole = self._slot(None, constant=False)
        self.steps.append(Step(_flat_call(function), tuple(self._tensor(r) for r in given), whole, "several"))
        for i, ref in enumerate(outputs):
            place = self.tensors[ref] = self._slot(None, constant=False)
            self.steps.append(Step(itemgetter(i), (whole,), place, "one of several"))

    def _slot(self, value: Any, constant: bool) -> int:
        self.slots.append(value)
        self.constant.append(constant)
        return len(self.slots) - 1

    def _node(self, node: Node) -> None:
        if node.op == "Placeholder":
            if node.number not in self.captured:
                raise UnsupportedError(f"the argument {node.name!r} is not known")
            self.arrays[node.number, 0] = self._slot(_captured(self.captured[node.number]), constant=True)
            return
        if node.op == "Const":
            self.arrays[node.number, 0] = self._slot(_array_of(node.attr["value"].tensor), constant=True)
            return
        if node.op == "NoOp":
            return
        if node.op in ("Identity", "PlaceholderWithDefault"):
            self.same[node.number, 0] = self._first(node.inputs[0])
            return
        twin = (node.op, tuple(self._first(r) for r in node.inputs), tuple(sorted((k, str(v)) for k, v in node.attr.items())))
        if (before := self.known.get(twin)) is not None:
            self.same[node.number, 0] = before
            return
        self.known[twin] = (node.number, 0)
        if node.op == "RealDiv" and self._division(node):
            return
        function = self._numpy(node) or (word_kernel(node) if node.op in WORD_KERNELS else None)
        if function is not None:
            self._add(function, [self._array(r) for r in node.inputs], self.arrays, node)
        else:
            self._add(kernel(node), [self._tensor(r) for r in node.inputs], self.tensors, node)

    def _numpy(self, node: Node) -> Callable[..., Any] | None:
        """The node in numpy; None if that would not be exact."""
        builder = OPERATIONS.get(node.op)
        if builder is None:
            return None
        constants = {}
        for i, ref in enumerate(node.inputs):
            place = self.arrays.get(self._first(ref))
            if place is not None and self.constant[place]:
                constants[i] = self.slots[place]
        try:
            function: Callable[..., Any] = builder(node, constants)
        except UnsupportedError:
            return None
        return function

    def _add(self, function: Callable[..., Any], inputs: list[int], kind: dict[Ref, int], node: Node) -> None:
        if inputs and all(self.constant[i] for i in inputs):
            with Flushed(), np.errstate(all="ignore"):
                kind[node.number, 0] = self._slot(function(*(self.slots[i] for i in inputs)), constant=True)
            return
        if not inputs:
            raise UnsupportedError(f"{node.op} of nothing")
        place = kind[node.number, 0] = self._slot(None, constant=False)
        self.steps.append(Step(function, tuple(inputs), place, node.op))

    def _division(self, node: Node) -> bool:
        """Whether the division was rewritten."""
        above, below = node.inputs
        under = self.nodes[self._first(below)[0]]
        if "literals" in self.rewrites and self._literal(below):
            divisor = self.slots[self._array(below)]
            factor = self._slot(divisor.dtype.type(1) / divisor, constant=True)
        elif "roots" in self.rewrites and under.op == "Sqrt":
            place = self._converted(self._tensor(under.inputs[0]), kernel(Node(-1, "Rsqrt", "", {}, under.inputs)), "Rsqrt")
            factor = self._converted(place, _numpy, TO_ARRAY)
        else:
            return False
        self._add(np.multiply, [self._array(above), factor], self.arrays, node)
        return True

    def _literal(self, ref: Ref) -> bool:
        node = self.nodes[self._first(ref)[0]]
        return node.op == "Const" and _array_of(node.attr["value"].tensor).dtype.kind == "f"

    def _first(self, ref: Ref) -> Ref:
        while ref in self.same:
            ref = self.same[ref]
        return ref

    def _array(self, ref: Ref) -> int:
        """The slot of a value as an array."""
        ref = self._first(ref)
        if ref not in self.arrays:
            if ref in self.tensors:
                self.arrays[ref] = self._converted(self.tensors[ref], _numpy, TO_ARRAY)
            else:  # one of several outputs
                whole = self.arrays[self._first((ref[0], 0))]
                raise UnsupportedError(f"output {ref[1]} of {self.nodes[ref[0]].op} ({whole})")
        return self.arrays[ref]

    def _tensor(self, ref: Ref) -> int:
        ref = self._first(ref)
        if ref not in self.tensors:
            self.tensors[ref] = self._converted(self._array(ref), as_tensor, TO_TENSOR)
        return self.tensors[ref]

    def _converted(self, place: int, convert: Callable[[Any], Any], op: str) -> int:
        if self.constant[place]:
            return self._slot(convert(self.slots[place]), constant=True)
        new = self._slot(None, constant=False)
        self.steps.append(Step(convert, (place,), new, op))
        return new


def _numpy(tensor: Any) -> Array:
    return np.asarray(tensor.numpy())


def _flat_call(function: Any) -> Callable[..., Any]:
    """The concrete function without the matching of its arguments to a signature, which costs as much as running it."""
    inner: Any = getattr(function, "_inference_function", None)
    captured = list(function.captured_inputs)
    if not hasattr(inner, "call_flat"):
        return lambda *tensors: function(*tensors)
    return lambda *tensors: inner.call_flat(*tensors, *captured)


def _sample(spec: Any) -> Array:
    """An array of zeros (or empty texts) that a function takes for ``spec``."""
    kind = np.dtype(spec.dtype.as_numpy_dtype)
    return np.full([_SAMPLE_ROWS if n is None else n for n in spec.shape], b"" if kind.kind == "O" else 0, kind)


def _array_of(message: Any) -> Array:
    import tensorflow as tf

    return np.asarray(tf.make_ndarray(message))


def _captured(outer: Any) -> Any:
    """What a captured tensor holds: an array; of a variable its value; of a table a dict."""
    import tensorflow as tf

    if outer.dtype != tf.resource:
        return np.asarray(outer.numpy())
    for variable in (tf.float32, tf.float64, tf.int32, tf.int64):
        try:
            return np.asarray(tf.raw_ops.ReadVariableOp(resource=outer, dtype=variable).numpy())
        except tf.errors.OpError:
            continue
    for keys, values in (
        (tf.string, tf.int64),
        (tf.int64, tf.string),
        (tf.string, tf.string),
        (tf.int64, tf.int64),
        (tf.string, tf.float32),
    ):
        try:
            # Asked for one word, a table of other types says so; asked to export, it ends the process.
            tf.raw_ops.LookupTableFindV2(table_handle=outer, keys=tf.zeros([1], keys), default_value=tf.zeros([], values))
            if int(tf.raw_ops.LookupTableSizeV2(table_handle=outer)) > MOST_WORDS:
                raise UnsupportedError("a table of too many words")
            found = tf.raw_ops.LookupTableExportV2(table_handle=outer, Tkeys=keys, Tvalues=values)
            return dict(zip(found.keys.numpy().tolist(), found.values.numpy().tolist(), strict=True))
        except tf.errors.OpError:
            continue
    raise UnsupportedError("a resource that is neither a variable nor a table of words and numbers")
