"""The operations that TF-Transform describes an analysis by, and how each is run without Beam: of what shares of the rows accumulated, or
of what was learnt before. The bits of one share are those of Beam with one bundle. What is not here is for Beam.

What is accumulated goes by :class:`~pipelines.batch.learning.Fold`, whatever the analyzer: of all rows (:class:`Combined`), of each key's
(:class:`PerKey`), or of words (:class:`Words`). TensorFlow, TF-Transform and Beam are imported inside functions.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipelines.batch.learning import Combined, Fold, PerKey, Phase, Words

__all__ = ["LATER", "Kind", "Unknown", "operations"]

LATER = object()
"""In the place of what is not learnt yet."""


class Unknown(Exception):
    """An operation that is for Beam."""


class _Analysis(Protocol):
    """What operations need of the analysis that they are part of."""

    folder: Path
    graph: Any
    vocabularies: dict[str, Path]

    def accumulated(self, fold: Fold) -> Any:
        """The shares' accumulators, or LATER."""


Values = Sequence[Any]


@dataclass(frozen=True)
class Kind:
    """How one kind of operation is run: ``run(analysis, operation, values)`` gives a collection per output; ``takes``: whether it can."""

    run: Callable[[Any, Any, Values], Values]
    takes: Callable[[Any], bool] = lambda operation: True


def operations() -> dict[type, Kind]:
    """By the class of TF-Transform's operation. Raises :class:`Unknown` where a release of it has other ones."""
    try:
        from tensorflow_transform import analyzer_nodes as analyzers
        from tensorflow_transform.beam import beam_nodes

        impls: Any = _impls()
        packed, single, order = impls._PackedCombinerWrapper, impls._CombinerWrapper, impls._VocabOrderingType
        words = {order.FREQUENCY, order.WEIGHTED_FREQUENCY, order.MUTUAL_INFORMATION, order.WEIGHTED_MUTUAL_INFORMATION}
        return {
            beam_nodes.ExtractInputForSavedModel: Kind(lambda a, op, values: (None,)),
            beam_nodes.CreateSavedModel: Kind(_graph),
            beam_nodes.ApplySavedModel: Kind(lambda a, op, values: (_Rows(values[0]),)),
            beam_nodes.ExtractFromDict: Kind(_chosen),
            beam_nodes.Flatten: Kind(lambda a, op, values: (_All(values),)),
            beam_nodes.CreateTensorBinding: Kind(lambda a, op, values: ((op.tensor_name, *values[0], op.dtype_enum),)),
            analyzers.PackedCombineAccumulate: _accumulate(lambda op: Combined(packed(op.combiners, False))),
            analyzers.PackedCombineMerge: _merge(lambda op: Combined(packed(op.combiners, True))),
            analyzers.CacheableCombineAccumulate: _accumulate(lambda op: Combined(single(op.combiner, False))),
            analyzers.CacheableCombineMerge: _merge(lambda op: Combined(single(op.combiner, True))),
            analyzers.CacheableCombinePerKeyAccumulate: _accumulate(
                lambda op: PerKey(Combined(single(op.combiner, False)), impls._split_inputs_by_key)
            ),
            analyzers.CacheableCombinePerKeyMerge: _merge(lambda op: PerKey(Combined(single(op.combiner, True)), dict.items)),
            analyzers.CacheableCombinePerKeyFormatKeys: Kind(_of_keys),
            analyzers.CacheableCombinePerKeyFormatLarge: Kind(_lines_of_keys),
            analyzers.ScaleAndFlattenPerKeyBucketBouandaries: Kind(
                lambda a, op, values: tuple([each] for each in impls._join_boundary_rows(*values[0]))
            ),
            analyzers.ExtractCombineMergeOutputs: Kind(_outputs),
            analyzers.ExtractPackedCombineMergeOutputs: Kind(_outputs),
            analyzers.AddKey: Kind(lambda a, op, values: (_Each(lambda value: (op.key, value), values[0]),)),
            analyzers.VocabularyAccumulate: _accumulate(_words, lambda op: op.vocab_ordering_type in words),
            analyzers.VocabularyMerge: Kind(_weights_first, lambda op: op.vocab_ordering_type in words),
            analyzers.VocabularyPrune: Kind(_pruned),
            analyzers.VocabularyCount: Kind(lambda a, op, values: ([np.int64(max(1, sum(1 for _ in values[0])))],)),
            analyzers.ExtractVocabularyReservedTokens: Kind(_reserved),
            analyzers.VocabularyOrderAndWrite: Kind(_vocabulary, lambda op: op.file_format == "text"),
        }
    except (ImportError, AttributeError) as error:
        raise Unknown(f"this release of TF-Transform: {error}") from None


def _impls() -> Any:
    from tensorflow_transform.beam import analyzer_impls

    return analyzer_impls


# ----------------------------------------------------------------------------------------------------------------- collections


@dataclass(frozen=True)
class _Rows:
    """A phase's tensors of each batch, or those called ``keys``: described, and computed by whoever accumulates them."""

    phase: Phase
    keys: Any = None


@dataclass(frozen=True)
class _Each:
    """``function`` of each element of a collection, for as often as it is asked."""

    function: Callable[[Any], Any]
    of: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return map(self.function, self.of)


@dataclass(frozen=True)
class _All:
    """The elements of several collections, one after the other."""

    of: Sequence[Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.of)


# ------------------------------------------------------------------------------------------------------------ what is accumulated


def _graph(analysis: _Analysis, operation: Any, bindings: Values) -> Values:
    if operation.label == "CreateSavedModel":  # the last one, which nothing is computed with
        return (bindings,)
    return (Phase(operation.label, {key: tensor.name for key, tensor in operation.output_signature.items()}, bindings),)


def _chosen(analysis: _Analysis, operation: Any, values: Values) -> Values:
    keys = operation.keys
    if isinstance(values[0], _Rows):
        return (replace(values[0], keys=keys),)
    many = isinstance(keys, tuple)
    return (_Each(lambda found: tuple(found[k] for k in keys) if many else found[keys], values[0]),)


def _accumulate(how: Callable[[Any], Any], takes: Callable[[Any], bool] = lambda operation: True) -> Kind:
    """Of the rows, as ``how(operation)`` says."""
    return Kind(lambda a, op, values: (a.accumulated(Fold(op.label, values[0].phase, how(op), values[0].keys)),), takes)


def _merge(how: Callable[[Any], Any]) -> Kind:
    """Of the shares' accumulators, in their order."""
    return Kind(lambda a, op, values: ([_folded(how(op), values[0])],))


def _folded(how: Any, elements: Iterable[Any]) -> Any:
    whole = how.begin()
    for element in elements:
        whole = how.add(whole, element)
    return how.end(whole)


def _outputs(analysis: _Analysis, operation: Any, values: Values) -> Values:
    (found,) = values[0]
    return tuple([output] for output in found)


def _of_keys(analysis: _Analysis, operation: Any, values: Values) -> Values:
    """The keys, sorted, and for each output an array of theirs."""
    dtypes = [info.dtype for info in operation.combiner.output_tensor_infos()]
    return tuple([tagged.value] for tagged in _impls()._merge_outputs_by_key(values[0][0].items(), dtypes))


def _lines_of_keys(analysis: _Analysis, operation: Any, values: Values) -> Values:
    """(outputs, key) of each key, for a file."""
    return ([(",".join(str(each) for each in found), key) for key, found in values[0][0].items()],)


# -------------------------------------------------------------------------------------------------------------------- vocabularies


def _words(operation: Any) -> Words | PerKey:
    """How often there is each word, or what its weights or its labels amount to."""
    impls: Any = _impls()
    ordering, order = operation.vocab_ordering_type, impls._VocabOrderingType
    if ordering == order.FREQUENCY:
        return Words()
    if ordering == order.WEIGHTED_FREQUENCY:
        return PerKey(_of_word(ordering), impls._flatten_value_and_weights_to_list_of_tuples)
    weighted = ordering == order.WEIGHTED_MUTUAL_INFORMATION
    return PerKey(_of_word(ordering), partial(impls._flatten_to_key_and_means_accumulator_list, compute_weighted=weighted))


def _of_word(ordering: int) -> Combined:
    """What a word's weights, or its labels, are combined by."""
    import apache_beam as beam

    impls: Any = _impls()
    order = impls._VocabOrderingType
    if ordering == order.WEIGHTED_FREQUENCY:
        return Combined(beam.CombineFn.from_callable(sum))
    return Combined(impls._WeightedMeanCombineFn(output_shape=(None,), compute_weighted=ordering == order.WEIGHTED_MUTUAL_INFORMATION))


def _weights_first(analysis: _Analysis, operation: Any, values: Values) -> Values:
    """(weight, word) of each word: how often there is it, the sum of its weights, or (what it says of the labels, how often)."""
    ordering, order = operation.vocab_ordering_type, _impls()._VocabOrderingType
    if ordering == order.FREQUENCY:
        counts: Counter[Any] = Counter()
        for share in values[0]:
            counts.update(share)
        return ([(count, word) for word, count in counts.items()],)
    found = _folded(PerKey(_of_word(ordering), dict.items), values[0])
    if ordering != order.WEIGHTED_FREQUENCY:
        found = _informative(operation, found)
    return ([(weight, word) for word, weight in found.items()],)


def _informative(operation: Any, found: dict[Any, Any]) -> dict[Any, Any]:
    """Word -> (its mutual information with the labels, how often)."""
    from tensorflow_transform import analyzers, tf_utils

    names: Any = tf_utils
    everywhere = [found.pop(k) for k in (names.GLOBAL_Y_COUNT_SENTINEL_STRING, names.GLOBAL_Y_COUNT_SENTINEL_INT) if k in found]
    out, least = {}, operation.min_diff_from_avg
    for overall in everywhere:
        if least is None:
            least = analyzers.calculate_recommended_min_diff_from_avg(overall.count * overall.weight)
        for word in found.items():
            name, (information, _, often) = _impls()._calculate_mutual_information_for_feature_value(
                word, overall, use_adjusted_mutual_info=operation.use_adjusted_mutual_info, min_diff_from_avg=least
            )
            out[name] = information, often
    return out


def _pruned(analysis: _Analysis, operation: Any, values: Values) -> Values:
    from tensorflow_transform import analyzers

    found, encoded = list(values[0]), operation.input_dtype != "string"

    def kept(often: float, information: float) -> list[tuple[Any, bytes]]:
        out = []
        for weight, word in found:
            says, count = weight if isinstance(weight, tuple) else (float("inf"), weight)
            all_of_them = often <= 0 and information == float("-inf")  # of a sum of weights that is below zero, too
            if all_of_them or (count >= often and says >= information):
                out.append((weight[0] if isinstance(weight, tuple) else weight, str(word).encode() if encoded else word))
        return out

    chosen = kept(operation.frequency_threshold, operation.informativeness_threshold)
    if operation.top_k is not None:  # of none the greatest is a word that stands for none, as Beam's
        chosen = sorted(chosen, reverse=True)[: operation.top_k] or [analyzers.get_empy_vocabulary_dummy_value(operation.input_dtype)]
    if operation.key_fn is None:
        return (chosen,)
    covering: dict[Any, list[tuple[Any, bytes]]] = {}
    for weight, word in kept(operation.coverage_frequency_threshold, operation.coverage_informativeness_threshold):
        covering.setdefault(operation.key_fn(word), []).append((weight, word))
    for each in covering.values():
        chosen += sorted(each, reverse=True)[: operation.coverage_top_k]
    return ([(weight, word) for word, weight in {word: weight for weight, word in chosen}.items()],)


def _reserved(analysis: _Analysis, operation: Any, values: Values) -> Values:
    from tensorflow_transform import tf_utils

    fetch: Any = tf_utils.fetch_vocabulary_reserved_tokens
    return ([fetch(analysis.graph, operation.name)],)


def _vocabulary(analysis: _Analysis, operation: Any, values: Values) -> Values:
    """A line per word, the most frequent first, or shuffled by their hashes; words with a place of their own before all. The path of the
    file."""
    from tensorflow_transform import analyzers

    reserved: list[Any] = [word for found in values[1:] for tokens in found for word in tokens]
    placed = set(reserved)
    counts = [(count, word) for count, word in values[0] if word not in placed]
    if operation.fingerprint_shuffle:
        counts.sort(key=lambda counted: hashlib.sha1(counted[1]).digest())  # TF-Transform's order, no secret
    elif reserved or not operation.input_is_sorted:
        counts.sort(reverse=True)
    counts = [(-1, word) for word in reserved] + counts
    if not counts:
        counts = [analyzers.get_empy_vocabulary_dummy_value(operation.input_dtype)]
    file = analysis.folder / operation.vocab_filename
    with file.open("wb") as out:
        for count, word in counts:
            out.write((f"{count} ".encode() if operation.store_frequency else b"") + word + b"\n")
    analysis.vocabularies[str(file)] = file
    return ([np.array(str(file))],)
