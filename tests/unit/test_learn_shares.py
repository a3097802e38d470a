"""What is learnt in shares: which rows are in which, and that nothing but the rows and their files decides its bits."""

from __future__ import annotations

import os
import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.batch import analysis, row_shares
from pipelines.batch.analysis import analyze_groups
from pipelines.batch.learning import Arrived, Phases, accumulate, sent
from pipelines.batch.row_shares import RowRange, batches_of, read_batches, shares_of
from tests.unit import graph_build
from tests.unit.test_in_process import many, per_key, words
from transforms.errors import DataError
from transforms.graph import TransformGraph

NAMES = st.integers(0, 99).map(lambda i: f"date={i:02}/shard-0000.parquet")


@given(st.dictionaries(NAMES, st.integers(0, 300), max_size=40), st.integers(1, 100), st.randoms())
def test_shares_are_neighbours_and_none_has_more_rows_than_it_may(rows: dict[str, int], most: int, chance: Any) -> None:
    shares = shares_of(rows, most)
    assert [(r.file, n) for share in shares for r in share for n in range(r.begin, r.end)] == [
        (f, n) for f in sorted(rows) for n in range(rows[f])
    ]
    held = [sum(r.end - r.begin for r in share) for share in shares]
    assert all(0 < n <= most for n in held)
    assert all(a + b[0].end - b[0].begin > most for a, b in zip(held, shares[1:], strict=False)), "as large as they may be"
    assert all(r.whole == (r.end - r.begin == rows[r.file]) for share in shares for r in share), "cut only where it has more than that"
    shuffled = list(rows.items())
    chance.shuffle(shuffled)
    assert shares_of(dict(shuffled), most) == shares


@given(st.integers(1, 400), st.integers(1, 150), st.data())
def test_ranges_have_the_rows_of_their_numbers_whatever_the_row_groups(n: int, group: int, data: Any) -> None:
    table, file = pa.table({"a": range(n), "b": [str(i) for i in range(n)]}), pa.BufferOutputStream()
    pq.write_table(table, file, row_group_size=group)
    begin = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(begin + 1, n))
    found = list(batches_of(pa.BufferReader(file.getvalue()), RowRange("x", begin, end, False), ["b", "a"]))
    assert all(batch.num_rows for batch in found)
    assert pa.Table.from_batches(found) == table.slice(begin, end - begin).select(["b", "a"])


def test_a_range_is_decoded_no_further_than_its_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of a row group lies behind it; nor is a group beside it."""
    monkeypatch.setattr(row_shares, "BATCH", 10)
    genuine, decoded = pq.ParquetFile.iter_batches, list[int]()

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        for batch in genuine(self, *args, **kwargs):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": range(300)}), file, row_group_size=100)
    for begin, end, most in ((100, 110, 10), (105, 125, 30), (190, 200, 100), (195, 205, 110), (0, 300, 300)):
        decoded.clear()
        found = batches_of(pa.BufferReader(file.getvalue()), RowRange("x", begin, end, False), ["a"])
        assert [v for batch in found for v in batch.column(0).to_pylist()] == list(range(begin, end))
        assert sum(decoded) == most, f"rows {begin} to {end}"


@pytest.mark.parametrize("rows", [RowRange("x", 0, 21), RowRange("x", 0, 19), RowRange("x", 15, 21, False), RowRange("x", 30, 40, False)])
def test_a_file_of_other_rows_than_it_had_is_one_line(rows: RowRange) -> None:
    """Shorter, or longer than all that was to be read: nothing of it is learnt."""
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": range(20)}), file, row_group_size=7)
    found = batches_of(pa.BufferReader(file.getvalue()), rows, ["a"])
    with pytest.raises(DataError, match=rf"^x has 20 rows, where (at least )?{rows.end} were found before: .*; run again$"):
        next(found)


class Runs:
    """A pickle of it runs a command where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("echo it ran > /dev/null",)


@pytest.mark.parametrize("value", [Runs(), [Runs()], Path("x"), np.array([Runs()], object), print])
def test_bytes_that_somebody_else_wrote_run_nothing(value: Any) -> None:
    """SECURITY C1: no pickle that crosses a process border runs what it names."""
    with pytest.raises(DataError, match="no analyzer's accumulator is made of"):
        list(Arrived([partial(pickle.dumps, value)]))


@given(st.binary(max_size=60), st.integers(0, 300))
def test_damaged_bytes_are_one_line(tail: bytes, cut: int) -> None:
    whole = sent((np.arange(9.0), np.float32(1), {"a": [b"x", 2**70]}))
    with pytest.raises(DataError, match=r"is damaged|is made of"):
        list(Arrived([lambda: whole[: min(cut, len(whole) - 1)] + b"." * (not tail) + b"\xff" + tail]))


@pytest.mark.parametrize(
    "value", [np.float32(0.1), np.array([[1.5], [np.nan]]), np.array([b"a", 3], object), (b"x", {"k": [None, 2**70]}, 1e-300)]
)
def test_accumulators_arrive_as_they_were_sent(value: Any) -> None:
    (again,) = Arrived([partial(sent, value)])
    assert type(again) is type(value) and repr(again) == repr(value)


ALL = {"many": many, "fares": graph_build.function(), "per_key": per_key, "words": words}


@pytest.mark.parametrize(
    ("sizes", "functions"),
    [([40 + 31 * i for i in range(9)], ALL), ([40, 1500, 120], {name: ALL[name] for name in ("fares", "per_key", "words")})],
    ids=["small files", "one that is cut"],
)
def test_the_order_in_which_shares_are_learnt_changes_no_bit(tmp_path: Path, sizes: list[int], functions: dict[str, Any]) -> None:
    files = [tmp_path / f"part-{i:02}.parquet" for i in range(len(sizes))]
    for i, (file, n) in enumerate(zip(files, sizes, strict=True)):
        pq.write_table(pa.Table.from_batches([graph_build.rows(n, seed=i)]), file, row_group_size=130)
    work: Any = {name: (graph_build.GROUP, function, files) for name, function in functions.items()}
    wanted = analyze_groups(work, tmp_path / "in-order", share_rows=300)

    class AnyOrder:
        """As two workers: a share whenever, from what came through its pickled form."""

        def accumulated(self, asked: Any, shares: Any) -> Any:
            out: dict[str, Any] = {}
            for name, one in pickle.loads(pickle.dumps({n: (a.inputs, a.what, a.folds) for n, a in asked.items()})).items():
                inputs, what, folds = one
                function = analysis.wrap_preprocessing_fn(asked[name].function, inputs, what)
                found: dict[int, list[bytes]] = {}
                two = [Phases(function, analysis.adapter_config(inputs), tmp_path / f"worker-{random.random()}") for _ in range(2)]
                for number in random.Random(1).sample(range(len(shares[name])), len(shares[name])):
                    batches = [analysis.to_tft_batch(b, inputs) for b in read_batches(shares[name][number], inputs.names)]
                    found[number] = [sent(x) for x in accumulate(two[number % 2], folds, batches)]
                assert len(found) > 3
                out[name] = [
                    Arrived([lambda n=n, i=i, found=found: found[n][i] for n in sorted(found)])  # type: ignore[misc]
                    for i in range(len(folds))
                ]
            return out

    assert analyze_groups(work, tmp_path / "any", share_rows=300, workers=AnyOrder()) == wanted


class Counting:
    """Workers that note which groups are asked of them, and learn as they do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()

    def accumulated(self, asked: Any, shares: Any) -> Any:
        out = {}
        for name, one in asked.items():
            self.asked.append(name)
            function = analysis.wrap_preprocessing_fn(one.function, one.inputs, one.what)
            phases = Phases(function, analysis.adapter_config(one.inputs), self.folder / f"{name}-{len(self.asked)}")
            found = []
            for share in shares[name]:
                batches = [analysis.to_tft_batch(b, one.inputs) for b in read_batches(share, one.inputs.names)]
                found.append([sent(x) for x in accumulate(phases, one.folds, batches)])
            out[name] = [Arrived([lambda f=f, i=i: f[i] for f in found]) for i in range(len(one.folds))]  # type: ignore[misc]
        return out


def of_every_kind(inputs: dict[str, Any]) -> dict[str, Any]:
    """An analyzer of each kind of accumulator that TF-Transform has."""
    import tensorflow as tf
    import tensorflow_transform as tft

    count = tf.cast(inputs["count_1h"], tf.float32)
    both = tf.concat([count, count * count + 1.0], axis=1)
    first = tf.matmul(both - tft.mean(both, reduce_instance_dims=False), tft.pca(both, output_dim=1, dtype=tf.float32))
    return {
        "first": first,
        "spread": count * tf.reduce_sum(tft.covariance(both, dtype=tf.float32)),
        "gaussian": tft.scale_to_gaussian(count),
        "lowest": count - tf.cast(tft.min(inputs["count_1h"]), tf.float32) + tf.cast(tft.size(count), tf.float32),
        "bucket": tft.bucketize(count, num_buckets=3),
    }


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """An analyzer that costs next to nothing."""
    import tensorflow_transform as tft

    return {"scaled": tft.scale_to_0_1(inputs["count_1h"])}


@pytest.fixture(scope="module")
def one_file_each(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """Four groups of 200 rows each, and what is learnt of them here in one share each."""
    folder = tmp_path_factory.mktemp("one-file-each")
    work: dict[str, Any] = {}
    for i, (name, function) in enumerate({"every": of_every_kind, "plain": plain, "again": plain, "last": plain}.items()):
        pq.write_table(pa.Table.from_batches([graph_build.rows(200, seed=i)]), file := folder / f"{name}.parquet")
        work[name] = (graph_build.GROUP, function, [file])
    return work, analyze_groups(work, folder / "here")


@pytest.mark.parametrize(("most", "remote"), [(200, True), (799, True), (800, False)])
def test_the_driver_reads_no_more_rows_than_a_share_has(
    one_file_each: tuple[dict[str, Any], dict[str, str]], tmp_path: Path, most: int, remote: bool
) -> None:
    """Groups of one share each are workers' work, too, where they are more than a share together; their bits are those of here."""
    work, wanted = one_file_each
    workers = Counting(tmp_path / "workers")
    assert analyze_groups(work, tmp_path / "there", share_rows=most, workers=workers) == wanted
    assert set(workers.asked) == (set(work) if remote else set())


def test_accumulators_of_every_kind_arrive(tmp_path: Path) -> None:
    files = [tmp_path / f"part-{i}.parquet" for i in range(3)]
    for i, file in enumerate(files):
        pq.write_table(pa.Table.from_batches([graph_build.rows(200, seed=i)]), file)
    work: Any = {"each": (graph_build.GROUP, of_every_kind, files)}
    assert analyze_groups(work, tmp_path / "shares", share_rows=200)["each"]


def test_what_keys_and_words_amount_to_in_shares_is_that_of_all_rows(tmp_path: Path) -> None:
    """Of files that are whole in a share, and of one that is cut into three."""
    files = [tmp_path / f"part-{i}.parquet" for i in range(3)]
    for i, (file, n) in enumerate(zip(files, (100, 500, 150), strict=True)):
        pq.write_table(pa.Table.from_batches([graph_build.rows(n, seed=i)]), file)
    work: Any = {"per_key": (graph_build.GROUP, per_key, files), "words": (graph_build.GROUP, words, files)}
    found = {}
    for name, most in (("whole", 10**9), ("shares", 200)):
        prints = analyze_groups(work, tmp_path / name, share_rows=most)
        found[name] = {group: tmp_path / name / group / print_ for group, print_ in prints.items()}
    for vocabulary in ("shuffled", "placed", "covering", "weighted"):
        words_of_all, words_of_shares = (next(found[name]["words"].rglob(vocabulary)).read_bytes() for name in found)
        assert words_of_all == words_of_shares and words_of_all, vocabulary
    rows = graph_build.rows(200, seed=2)
    whole, shares = ({g: TransformGraph.load(p).apply(rows).to_pydict() for g, p in graphs.items()} for graphs in found.values())
    for group, near in (("per_key", {"z", "bucket"}), ("words", {"informed", "informing", "both"})):
        exact = whole[group].keys() - near
        assert {k: whole[group][k] for k in exact} == {k: shares[group][k] for k in exact}
    assert whole["per_key"]["z"] == pytest.approx(shares["per_key"]["z"], rel=1e-4, abs=1e-5)
