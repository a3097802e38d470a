"""Spines as people have them: what nobody asked about comes back as it was given, and what cannot be joined is said in one line."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.training.training_set import check_spine, join_features
from pipelines.training.user_code import ask_spine, load_function
from serving.projections import FeatureSet
from serving.spines import as_table, key_column, to_pandas
from tests.integration import training_repo
from tests.integration.offline_world import Repo, row
from transforms.errors import DataError, StoreError

ROOT = Path(__file__).parents[2]
T0 = datetime(2013, 5, 1, tzinfo=UTC)
BIG = 2**53 + 1


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    made = Repo(tmp_path_factory.mktemp("spines"))
    made.write([row("JFK", 1, T0, 5), row("JFK", BIG, T0, 7), row("LGA", BIG - 1, T0, BIG), row("LGA", 2, T0, None)])
    return made


def frame(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"event_timestamp": [T0 + timedelta(hours=1)] * n, **columns})


def asked(repo: Repo, spine: Any) -> Any:
    return repo.store.get_historical_features(entity_df=spine, features=["legs:n"])


def test_columns_that_nobody_asked_about_come_back_as_they_were_given(repo: Repo) -> None:
    """FAULTS 10: Int64 with a null beyond 2^53, other dtypes of pandas, categories, the index's place."""
    given = frame(
        origin=["JFK", "LGA", "JFK"],
        number=pd.array([1, BIG - 1, 1], dtype="Int64"),
        account=pd.array([2**53 + 1, None, -(2**63)], dtype="Int64"),
        small=pd.array([1, None, 255], dtype="UInt8"),
        flag=pd.array([True, None, False], dtype="boolean"),
        kind=pd.Categorical(["a", None, "b"], categories=["b", "a", "c"]),
        text=pd.array(["x", None, "y"], dtype="string"),
        ratio=np.array([0.1, np.nan, -0.0], np.float32),
        price=[1.5, None, -0.0],
    )
    given.index = [7, 7, 9]
    before = given.copy(deep=True)
    got = asked(repo, given).to_df()
    for name in given.columns[1:]:
        pd.testing.assert_series_equal(got[name], given[name].reset_index(drop=True))
    assert got["account"].tolist()[0] == 2**53 + 1 and got["account"].tolist()[2] == -(2**63)
    assert got["n"].tolist() == [5, BIG, 5]
    assert str(got["price"][2]) == "-0.0"
    pd.testing.assert_frame_equal(given, before)
    table = asked(repo, given).to_arrow()
    assert table.column("account").to_pylist() == [2**53 + 1, None, -(2**63)]
    nulls = asked(repo, frame(origin=["LGA", "LGA"], number=[2, BIG - 1])).to_df()["n"]  # a feature beyond 2^53 beside a null
    assert nulls.tolist()[1] == BIG and nulls.isna().tolist() == [True, False]


def test_a_float_key_is_a_whole_number_or_refused(repo: Repo) -> None:
    """FAULTS 10: …993 as a float is …992: the row of another key would be joined without a word."""
    fine = asked(repo, frame(origin=["JFK", "LGA", "JFK"], number=[1.0, 2.0, np.nan])).to_arrow()
    assert fine.column("n").to_pylist() == [5, None, None]
    assert fine.schema.field("number").type == pa.float64()
    for bad, words in (
        ([1.0, float(BIG)], "9007199254740992.0, which a float cannot hold exactly"),
        ([1.0, float(BIG + 1)], "which a float cannot hold exactly"),
        ([1.5, 1.0], "1.5, which is no whole number"),
        ([float("inf"), 1.0], "inf, which is no whole number"),
        ([-float(2**60), 1.0], "which a float cannot hold exactly"),
    ):
        with pytest.raises(DataError, match=words) as error:
            asked(repo, frame(origin=["JFK"] * 2, number=bad)).to_arrow()
        assert "'number' is double" in str(error.value) and "\n" not in str(error.value)
    for narrow, limit in ((np.float32, 2**24), (np.float16, 2**11)):
        fine = asked(repo, pa.Table.from_pandas(frame(origin=["JFK"] * 2, number=np.array([1, limit - 1], narrow)))).to_arrow()
        assert fine.column("n").to_pylist() == [5, None]
        with pytest.raises(DataError, match="which a float cannot hold exactly"):
            asked(repo, pa.Table.from_pandas(frame(origin=["JFK"] * 2, number=np.array([1, limit + 1], narrow)))).to_arrow()
    with pytest.raises(DataError, match="'number' is bool"):
        asked(repo, frame(origin=["JFK"], number=[True])).to_arrow()
    for odd in (frame(origin=["JFK"], number=["one"]), frame(origin=[1], number=[1])):
        with pytest.raises(StoreError, match="check the types of the spine's keys"):
            asked(repo, odd).to_arrow()


def test_whole_numbers_among_keys_that_are_stored_as_floats(repo: Repo) -> None:
    """FAULTS 10, the other way round: pandas wrote a source's keys as floats, and the database would compare both as such."""
    spine = pa.table({"key": pa.array([1, BIG])})
    assert key_column(spine.slice(0, 1), "key", "DOUBLE", "v").to_pylist() == [1]
    for kind, value in (("DOUBLE", BIG), ("DOUBLE", -(2**53)), ("FLOAT", 2**24)):
        with pytest.raises(DataError, match=f"'key' is stored as {kind}, which cannot tell"):
            key_column(pa.table({"key": pa.array([value])}), "key", kind, "v")


def test_times_that_pandas_cannot_hold_are_datetimes(repo: Repo) -> None:
    """FAULTS 7 and 11: 9999-12-31 as a time of the spine, and years that no timestamp has."""
    end = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    table = pa.table(
        {"event_timestamp": pa.array([end, T0], pa.timestamp("us", tz="UTC")), "also": pa.array([T0, None], pa.timestamp("us"))}
    )
    made = to_pandas(table)
    assert made["event_timestamp"].tolist()[0] == end
    assert made["also"][0] == pd.Timestamp(T0).tz_localize(None) and pd.isna(made["also"][1])
    arrow = pa.Table.from_pandas(frame(origin=["JFK"], number=[1]), preserve_index=False)
    never = arrow.set_column(0, "event_timestamp", pa.array([10**15], pa.timestamp("s", tz="UTC")))
    twice = arrow.append_column("origin", arrow.column("origin"))
    for spine, words in ((never, "holds a time that is none"), (twice, "the column 'origin' more than once")):
        with pytest.raises(DataError, match=words):
            asked(repo, spine).to_arrow()


LAYOUTS = {
    "large_string": lambda v: pa.array(v, pa.large_string()),
    "dictionary": lambda v: pa.array(v, pa.string()).dictionary_encode(),
    "large dictionary": lambda v: pa.array(v, pa.large_string()).dictionary_encode(),
    "chunks": lambda v: pa.chunked_array([pa.array(v[:1], pa.large_string()), pa.array(v[1:], pa.large_string())]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_in_any_layout_is_a_key(repo: Repo, layout: str) -> None:
    """FAULTS 11: Polars gives large_string, pandas' categories are dictionaries."""
    values = ["JFK", "LGA", "JFK"]
    spine = pa.table(
        {
            "event_timestamp": pa.array([T0 + timedelta(hours=1)] * 3, pa.timestamp("ns", tz="UTC")),
            "origin": LAYOUTS[layout](values),
            "number": pa.array([1, BIG - 1, 9], pa.int64()),
            "kept": LAYOUTS[layout](values),
        }
    )
    got = repo.store._get_provider().get_historical_features(
        repo.store.config, [repo.view], ["legs:n"], spine, repo.store.registry, "t", False
    ).to_arrow()  # fmt: skip
    assert got.column("n").to_pylist() == [5, BIG, None]
    assert got.schema.field("kept").type == spine.schema.field("kept").type


def test_what_is_no_table_or_no_time_is_one_line(repo: Repo) -> None:
    """FAULTS 11: exceptions of pandas and pyarrow are said as ours."""
    for spine, words in (
        (frame(origin=["JFK"], number=[1]).assign(event_timestamp=["yesterdayish"]), "holds a text that is no time"),
        (frame(origin=["JFK", "a"], number=[1, 2], odd=[1, "x"]), "the spine cannot be read"),
        (frame(origin=["JFK"], number=[1], odd=pd.Series([2**70], dtype=object)), "the spine cannot be read"),
        (pd.concat([frame(origin=["JFK"], number=[1]), frame(number=[1])], axis=1), "the spine cannot be read"),
    ):
        with pytest.raises(DataError, match=words) as error:
            asked(repo, spine).to_arrow()
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"it is a builtins\.list"):
        as_table([1])


def test_polars_and_pandas_spines_train(tmp_path: Path) -> None:
    """FAULTS 11: a spine function may give what people work with; the training set has the same values."""
    pl = pytest.importorskip("polars")
    from feast import FeatureStore

    folder, data = training_repo.make(tmp_path, rows=200)
    model, store = load_function(folder, "labels:model")(), FeatureStore(repo_path=str(folder))
    arrow = pq.read_table(data / "events" / "requests.parquet")
    sets = []
    for made in (arrow, pl.from_arrow(arrow), arrow.to_pandas(), arrow.to_pandas().astype({"depot": "category", "size": "category"})):
        spine = check_spine(as_table(made), model)
        features = FeatureSet.of(model.features)
        sets.append(join_features(store, spine, model, features)[0])
    for other in sets[1:]:
        assert other.schema.remove_metadata() == sets[0].schema.remove_metadata()
        assert other.to_pylist() == sets[0].to_pylist()
    odd = arrow.set_column(arrow.column_names.index("depot"), "depot", pa.array([T0.date()] * arrow.num_rows))
    with pytest.raises(DataError, match="the entity key 'depot' is date32"):
        check_spine(odd, model)


def test_what_a_spine_function_raises_names_its_place(tmp_path: Path) -> None:
    """FAULTS 11: the user's own exception is one line with file and line."""
    (tmp_path / "labels.py").write_text(
        "def spine(data, start, end):\n    return {}['amount']\n\ndef numbers(data, start, end):\n    return 5\n"
    )
    with pytest.raises(DataError, match=r"^spine 'labels:spine': labels.py, line 2: KeyError: 'amount'$"):
        ask_spine(tmp_path, "labels:spine", tmp_path, T0, T0)
    with pytest.raises(DataError, match=r"it is a builtins\.int"):
        ask_spine(tmp_path, "labels:numbers", tmp_path, T0, T0)


def test_every_command_ends_in_one_line(tmp_path: Path) -> None:
    """FAULTS 11: an exception that nobody translated names its place and the file with its trace."""
    repo = tmp_path / "shop"
    subprocess.run([sys.executable, "-m", "pipelines.cli", "init", str(repo)], cwd=ROOT, check=True, capture_output=True)
    (repo / "make_events.py").write_text("def main(data, start, end, say):\n    return {}[start]\n")
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "events", "--repo", str(repo)], cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: make_events.py, line 2: KeyError: ")
    trace = Path(lines[0].partition("(full traceback: ")[2].rstrip(")"))
    assert "Traceback" in trace.read_text() and trace.stat().st_mode & 0o77 == 0
    trace.unlink()


def test_helpers() -> None:
    table = pa.table({"k": pa.array([1.0, None, 3.0])})
    assert key_column(table, "k", "BIGINT", "v").to_pylist() == [1, None, 3]
    assert key_column(table, "k", "DOUBLE", "v").type == pa.float64()
    made = to_pandas(pa.table({"n": pa.array([1, None], pa.int64())}))
    assert made["n"].dtype == np.float64  # as Feast gives it, where nothing is lost
