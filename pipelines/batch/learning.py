"""What analyzers learn from rows, in shares: each share of a group's rows is accumulated by itself, on whichever machine, and the shares'
accumulators are put together in the order of the shares.

TF-Transform's sums and quantile sketches depend on the order in which they see values. So the shares are decided by the files and their
rows alone (:mod:`pipelines.batch.row_shares`), and within one batch follows batch as the rows do: what is learnt does not depend on who
learns which share, or when.
An accumulator has passed through its pickled form wherever there is more than one share, on one machine, too.

TensorFlow, TF-Transform and Beam are imported inside functions.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipelines.batch.row_shares import RowRange
from transforms.errors import DataError

__all__ = [
    "Arrived",
    "Asked",
    "Combined",
    "Fold",
    "Learners",
    "Lines",
    "PerKey",
    "Phase",
    "Phases",
    "Words",
    "accumulate",
    "learnt_constants",
    "sent",
]

_OF_NUMPY = (("multiarray", "scalar"), ("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
_TRACING = threading.Lock()
"""TF-Transform keeps what is traced in a variable of the process, and workers are threads."""


@dataclass(frozen=True)
class Lines:
    """A vocabulary, in the place of the path of its file where it goes to another machine."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Phase:
    """The function up to some tensors, ``names`` by what they are called here; ``bindings``: (tensor, value, type) of what was learnt."""

    label: str
    names: Mapping[str, str]
    bindings: Sequence[tuple[str, Any, int]]


class Words:
    """How often there is each word of one tensor."""

    def begin(self) -> Counter[Any]:
        """No words."""
        return Counter()

    def add(self, whole: Counter[Any], found: Any) -> Counter[Any]:
        """With a batch's."""
        (words,) = found
        whole.update(words.tolist())
        return whole

    def end(self, whole: Counter[Any]) -> dict[Any, int]:
        """What goes on its way."""
        return dict(whole)


@dataclass(frozen=True)
class Combined:
    """What Beam's CombineFn ``combine`` accumulates in one bundle."""

    combine: Any

    def begin(self) -> Any:
        """Nothing accumulated."""
        return self.combine.create_accumulator()

    def add(self, whole: Any, found: Any) -> Any:
        """With an element."""
        return self.combine.add_input(whole, found)

    def end(self, whole: Any) -> Any:
        """What the CombineFn gives for an accumulator of all that the bundle has."""
        combine = self.combine
        whole = combine.merge_accumulators([combine.create_accumulator(), combine.compact(whole)])  # of a sketch, a step of its own
        return combine.extract_output(combine.compact(whole))


@dataclass(frozen=True)
class PerKey:
    """What ``combine`` accumulates for each key, in a dict; ``pairs`` gives the (key, element) pairs of a batch's tensors, in their order.
    Of the keys the dict has their own order, which is no part of what is learnt: who reads it sorts."""

    combine: Combined
    pairs: Callable[[Any], Iterable[tuple[Any, Any]]]

    def begin(self) -> dict[Any, Any]:
        """No keys."""
        return {}

    def add(self, whole: dict[Any, Any], found: Any) -> dict[Any, Any]:
        """With a batch's pairs."""
        for key, element in self.pairs(found):
            whole[key] = self.combine.add(whole[key] if key in whole else self.combine.begin(), element)
        return whole

    def end(self, whole: dict[Any, Any]) -> dict[Any, Any]:
        """Each key's, on its way."""
        return {key: self.combine.end(one) for key, one in whole.items()}


@dataclass(frozen=True)
class Fold:
    """What one operation accumulates, by ``how``, of a phase's tensors: of those called ``keys`` (one, or a tuple; None: all, by name)."""

    label: str
    phase: Phase
    how: Words | Combined | PerKey
    keys: Any = None

    def add(self, whole: Any, tensors: Mapping[str, Any]) -> Any:
        """With a batch's tensors."""
        return self.how.add(whole, self._chosen(tensors))

    def _chosen(self, tensors: Mapping[str, Any]) -> Any:
        if isinstance(self.keys, tuple):
            return tuple(tensors[key] for key in self.keys)
        return tensors if self.keys is None else tensors[self.keys]


@dataclass(frozen=True)
class Asked:
    """What is asked of the rows of a group: its ``function`` over ``inputs``, called ``what`` in errors, and the folds of a round."""

    function: Callable[[dict[str, Any]], dict[str, Any]]
    inputs: pa.Schema
    what: str
    folds: Sequence[Fold]


class Learners(Protocol):
    """Who accumulates shares elsewhere."""

    def accumulated(self, asked: Mapping[str, Asked], shares: Mapping[str, Sequence[Sequence[RowRange]]]) -> Mapping[str, Sequence[Any]]:
        """Answers to what is asked of groups whose rows are in ``shares``: for each fold the shares' accumulators."""
        ...


class Phases:
    """The traced functions of a preprocessing function's phases; ``config`` says how batches become tensors, ``folder`` is for files."""

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]], config: Any, folder: Path) -> None:
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapter

        self.function, self.folder = function, folder
        self.adapter: Any = TensorAdapter(config)
        self.specs = self.adapter.OriginalTypeSpecs()
        self._calls: dict[str, Callable[[Any], dict[str, Any]]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def tensors(self, batch: pa.RecordBatch) -> Any:
        """A batch as the function's inputs."""
        return self.adapter.ToBatchTensors(batch, produce_eager_tensors=True)

    def call(self, phase: Phase) -> Callable[[Any], dict[str, Any]]:
        """A phase as a call on a batch's tensors, traced when it is first asked for; dense tensors are numpy's."""
        if phase.label not in self._calls:
            self._calls[phase.label] = self._traced(phase)
        return self._calls[phase.label]

    def _traced(self, phase: Phase) -> Callable[[Any], dict[str, Any]]:
        import tensorflow as tf
        from tensorflow_transform import graph_context
        from tensorflow_transform import impl_helper as typed_helper

        helper: Any = typed_helper
        with _TRACING:
            module = tf.Module()
            context = graph_context.TFGraphContext(module, str(self.folder), learnt_constants(self._here(phase).bindings))
            names = dict(phase.names)
            called = helper.get_traced_transform_fn(self.function, self.specs, context, names).get_concrete_function()

        def call(tensors: Any) -> dict[str, Any]:
            assert module is not None  # owns the tables
            return {name: np.asarray(v) if isinstance(v, tf.Tensor) else v for name, v in called(tensors).items()}

        return call

    def _here(self, phase: Phase) -> Phase:
        """With vocabularies as files of this machine."""
        bindings = []
        for name, value, kind in phase.bindings:
            if isinstance(value, Lines):
                file = self.folder / value.name
                file.write_bytes(value.content)
                value = np.array(str(file))
            bindings.append((name, value, kind))
        return replace(phase, bindings=bindings)


def learnt_constants(bindings: Sequence[tuple[str, Any, int]]) -> Any:
    """Tensors by the name of the one that they replace; None where nothing was learnt yet, as TF-Transform has it."""
    import tensorflow as tf

    return {name: tf.constant(value, tf.dtypes.as_dtype(kind)) for name, value, kind in bindings} or None


def accumulate(phases: Phases, folds: Sequence[Fold], batches: Iterable[pa.RecordBatch]) -> list[Any]:
    """What each fold makes of one share's batches, in their order; memory is bounded by a batch and the accumulators."""
    at: dict[str, list[int]] = {}
    for i, fold in enumerate(folds):
        at.setdefault(fold.phase.label, []).append(i)
    calls = [(phases.call(folds[mine[0]].phase), mine) for mine in at.values()]
    whole: list[Any] = [fold.how.begin() for fold in folds]
    for batch in batches:
        tensors = phases.tensors(batch)
        for call, mine in calls:
            found = call(tensors)
            for i in mine:
                whole[i] = folds[i].add(whole[i], found)
    return [fold.how.end(each) for fold, each in zip(folds, whole, strict=True)]


_MADE = {
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in _OF_NUMPY),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("tensorflow_transform.analyzers", "_LMomentsAccumulator"),
    ("tensorflow_transform.analyzers", "_WeightedMeanAndVarAccumulator"),
    ("tfx_bsl.cc.tfx_bsl_extension.sketches", "QuantilesSketch"),
}
"""What accumulators are made of, beside plain values: nothing else is made of their bytes."""


class _Plain(pickle.Unpickler):
    """Of bytes that lay in a bucket, where others may write: they make values, and run nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _MADE:
            raise DataError(
                f"what was learnt of a share of the rows is a {module}.{name}, which no analyzer's accumulator is made of: the file was"
                " altered, or an analyzer of one's own keeps objects; have it keep numbers, texts, arrays, lists and dicts"
            )
        return super().find_class(module, name)


def sent(accumulator: Any) -> bytes:
    """An accumulator on its way: a pickle, as TF-Transform's sketches have no other form; :class:`Arrived` makes values of it."""
    return pickle.dumps(accumulator, protocol=5)


class Arrived:
    """Accumulators of the shares, in their order, each read when it is its turn, for as often as they are asked for. Raises DataError for
    bytes that are none."""

    def __init__(self, reads: Sequence[Callable[[], bytes]]) -> None:
        self.reads = reads

    def __iter__(self) -> Iterator[Any]:
        for read in self.reads:
            try:
                yield _Plain(io.BytesIO(read())).load()
            except DataError:
                raise
            except Exception as error:  # bytes of anybody: whatever they make the unpickler raise
                raise DataError(f"what was learnt of a share of the rows is damaged ({type(error).__name__}); run again") from None
