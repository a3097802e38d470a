"""What the online store holds and what a server answered, against the rows that batch makes."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.streaming.state.row_log import RowLog, read_earlier, read_rows
from pipelines.verify.log import found_graphs
from pipelines.verify.online import check, latest
from pipelines.verify.served import check_served
from pipelines.verify.stream_record import emission_stamps, load_record
from tests.whole_proof import prove


class Memory:
    """An online store in memory, in order or not."""

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self.rows: dict[str, dict[tuple[Any, ...], tuple[Any, pa.Table]]] = {}

    def write(self, group, rows):
        for n, row in enumerate(rows.select([*group.entity.keys, "event_timestamp", "tandem_revision"]).to_pylist()):
            key, order = tuple(row[k] for k in group.entity.keys), (row["event_timestamp"], row["tandem_revision"])
            held = self.rows.setdefault(group.name, {}).get(key)
            if not self.ordered or held is None or order > held[0]:
                self.rows[group.name][key] = order, rows.slice(n, 1)

    def read(self, group, keys, schema):
        wanted = [tuple(k.values()) for k in keys.to_pylist()]
        found = [self.rows[group.name][k][1] for k in wanted if k in self.rows.get(group.name, {})]
        return pa.concat_tables(found).combine_chunks() if found else schema.empty_table()


def kept_online(plain, expected, folder, store):
    """The causes of all keys once a store took the honest stream's rows, ten at a time, each time the newest first."""
    proof, record = plain.prove(folder, expected), load_record(folder, "main", plain.world.repo().groups)
    causes: Counter[str] = Counter()
    lines: list[str] = []
    for name, group in proof.groups.items():
        delivered = read_rows(folder, name)
        for start in range(0, delivered.num_rows, 10):
            some = delivered.slice(start, 10)
            store.write(group.group, some.take(pa.array(np.arange(some.num_rows)[::-1])))
        found = check(group, delivered, record.rows[name], record.positions[name], store.read, None)
        lines += found.lines
        causes.update(found.causes)
    return causes, lines


def test_an_ordered_store_holds_what_batch_has_or_why_not(plain, honest, expected):
    causes, lines = kept_online(plain, expected, honest, Memory(ordered=True))
    assert set(causes) == {"equal", "too late"} and not lines
    assert causes["equal"] > 500


def test_an_unordered_writer_is_found(plain, honest, expected):
    causes, lines = kept_online(plain, expected, honest, Memory(ordered=False))
    assert causes["unexplained"] > 20
    assert any("an older row is stored" in line for line in lines)


@pytest.mark.parametrize("break_", ["forgotten", "altered"])
def test_a_store_that_lost_or_altered_a_row_is_found(plain, honest, expected, break_):
    store: Any = Memory(ordered=True)
    read = store.read

    def other(group, keys, schema):
        rows = read(group, keys, schema)
        if group.name != "origin_traffic":
            return rows
        if break_ == "forgotten":
            return rows.slice(1)
        at = rows.schema.get_field_index("dep_delay_mean_1h")
        return rows.set_column(at, rows.schema.field(at), pa.array([7.25] * rows.num_rows))

    store.read = other
    causes, lines = kept_online(plain, expected, honest, store)
    assert causes["unexplained"] == (1 if break_ == "forgotten" else 3)
    assert any(("nothing is stored" if break_ == "forgotten" else "other values are stored") in line for line in lines)


NAME, LOST = "origin_traffic", "JFK"


def boundaries(rows, group):
    return rows.column("event_timestamp").cast(pa.int64()).to_numpy() - group.delay_us


@pytest.fixture(scope="module")
def span(plain, expected):
    """The middle of what batch has."""
    at = np.unique(boundaries(expected.rows[NAME], plain.world.repo().groups[NAME]))
    return int(at[len(at) // 3]), int(at[2 * len(at) // 3])


def proven(plain, expected, record, span, leave_out=()):
    """The proof of NAME against a run of ``span`` alone, as --against makes it, which has no row of the origins ``leave_out``."""
    repo, (start, end) = plain.world.repo(), span
    rows = {}
    for name, table in expected.rows.items():
        at = boundaries(table, repo.groups[name])
        rows[name] = table.filter(pa.array((at > start) & (at <= end)))
    rows[NAME] = rows[NAME].filter(pa.array([o not in leave_out for o in rows[NAME]["origin"].to_pylist()]))
    found = prove(
        record, repo.groups, rows, expected.log.events, plain.graphs, lambda n: found_graphs(repo.data, repo.groups[n]), start, end=end
    )
    return found.groups[NAME]


def kept(plain, expected, honest, span, lost_after=None, leave_out=()):
    """What is found of a store that holds what was delivered of NAME, of LOST nothing whose boundary lies after ``lost_after``."""
    record = load_record(honest, "main", plain.world.repo().groups)
    delivered = read_rows(honest, NAME)
    if lost_after is not None:

        def without(rows):
            gone = np.array([o == LOST for o in rows["origin"].to_pylist()])
            return rows.filter(pa.array(~(gone & (boundaries(rows, plain.world.repo().groups[NAME]) > lost_after))))

        delivered, record = without(delivered), replace(record, rows={**record.rows, NAME: without(record.rows[NAME])})
    store = Memory(ordered=True)
    proof = proven(plain, expected, record, span, leave_out)
    store.write(proof.group, delivered)
    return check(proof, delivered, record.rows[NAME], record.positions[NAME], store.read, None, span=span)


def test_a_store_that_goes_on_after_the_run_is_as_delivered(plain, honest, expected, span):
    assert kept(plain, expected, honest, span).causes == {"outside the run": 3}


def test_a_key_that_is_as_before_the_run_is_outside_if_the_run_says_nothing_of_it(plain, honest, expected, span):
    """And hides nothing if it does: the stream lost the rows of a key in all of the run's time."""
    found = kept(plain, expected, honest, span, lost_after=span[0])
    assert found.causes == {"outside the run": 2, "unexplained": 1}
    assert found.lines == [f"origin={LOST!r}: what was delivered is not what batch has"]
    assert kept(plain, expected, honest, span, lost_after=span[0], leave_out=[LOST]).causes == {"outside the run": 3}


@pytest.fixture(scope="module")
def answers(plain, honest, expected):
    """The proof, what was delivered for origin_traffic, and answers as a good server would have logged them."""
    groups = plain.world.repo().groups
    delivered = {n: read_rows(honest, n) for n in groups}
    record = load_record(honest, "main", groups)
    stamps = emission_stamps(honest, record.positions, groups)
    readable = {n: record.readable(delivered[n], g, stamps) for n, g in groups.items()}
    name = "origin_traffic"
    created = delivered[name].column("created_timestamp").cast(pa.int64()).to_numpy()
    assert ((readable[name] > created) & (readable[name] < created + 60_000_000)).all()
    return plain.prove(honest, expected).groups[name], delivered[name], readable[name]


def logged(rows: pa.Table, *, after_s: float = 60, age_s: float = 30, **changes: Any) -> pa.Table:
    """Answers made of ``rows``, given ``after_s`` after they were made, judged by an instant ``age_s`` after their event timestamp."""
    n, view = rows.num_rows, "origin_traffic"
    stamps = rows.column("event_timestamp").cast(pa.int64()).to_numpy()
    created = rows.column("created_timestamp").cast(pa.int64()).to_numpy()
    moment = pa.timestamp("us", tz="UTC")
    columns: dict[str, Any] = {
        "tandem_request": pa.array([f"r{i}" for i in range(n)]),
        "tandem_at": pa.array(created + round(after_s * 1e6)).cast(moment),
        "tandem_as_of": pa.array(stamps + round(age_s * 1e6)).cast(moment),
        "origin": rows.column("origin"),
        f"{view}__tandem_status": pa.array(["PRESENT"] * n),
        f"{view}__event_timestamp": rows.column("event_timestamp"),
        f"{view}__tandem_revision": rows.column("tandem_revision"),
        f"{view}__tandem_fingerprint": rows.column("tandem_fingerprint"),
    }
    for feature in ("count_1h", "dep_delay_mean_3h"):
        columns[f"{view}__{feature}"] = rows.column(feature)
        columns[f"{view}__{feature}__status"] = pa.array(["PRESENT"] * n)
    return pa.table({**columns, **changes})


def judged(answers, log):
    proof, delivered, readable = answers
    return check_served(log, proof, delivered, readable, None)


def newest_at_the_end(delivered: pa.Table) -> pa.Table:
    return latest(delivered, ("origin",))


def test_a_good_answer_is_right(answers):
    rows = newest_at_the_end(answers[1])
    found = judged(answers, logged(rows))
    assert found.answers == 3 and found.values == 6
    assert set(found.causes) <= {"equal", "too late"} and found.unexplained == 0


def test_an_older_row_than_was_delivered_is_found_and_one_in_flight_is_not(answers):
    delivered = answers[1]
    old = delivered.slice(0, 3)
    assert judged(answers, logged(old, after_s=3600)).unexplained == 3
    # Asked right after it was made, by an instant at which batch has newer ones: nothing newer was there to be served.
    found = judged(answers, logged(old, after_s=0.001, age_s=7200))
    assert found.causes.get("in flight", 0) == 3 and (found.behind_s > 0).all()


def test_an_altered_value_is_found(answers):
    rows = newest_at_the_end(answers[1])
    wrong = pa.array(np.nextafter(rows.column("dep_delay_mean_3h").to_numpy(), 1e9))
    found = judged(answers, logged(rows, origin_traffic__dep_delay_mean_3h=wrong))
    assert found.unexplained == 3 and "never delivered" in found.lines[0]


@pytest.fixture(scope="module")
def corrected(answers):
    """First revisions that were corrected, and when the row was made that corrected each, looked for one by one (microseconds)."""
    table = answers[1].select(["origin", "event_timestamp", "tandem_revision", "created_timestamp"])
    rows = [(r["origin"], r["event_timestamp"], r["tandem_revision"], r["created_timestamp"]) for r in table.to_pylist()]
    places, made = [], []
    for place, (origin, at, revision, _) in enumerate(rows):
        others = [r for r in rows if r[:2] == (origin, at)]
        later = [created for *_, other, created in others if other > revision]
        if later and revision == min(r[2] for r in others):
            places.append(place)
            made.append(round(min(later).timestamp() * 1e6))
    assert len(places) > 5
    return answers[1].take(pa.array(places)), np.array(made)


def given(moments):
    return {"tandem_at": pa.array(moments).cast(pa.timestamp("us", tz="UTC"))}


def test_a_revision_that_was_corrected_after_the_answer_is_late_data(answers, corrected):
    rows, made = corrected
    found = judged(answers, logged(rows, **given(made - 1000)))
    assert found.causes == {"late data": rows.num_rows} and not len(found.behind_s)
    ahead = judged(answers, logged(rows, age_s=-10, **given(made - 1000)))
    assert ahead.causes == {"ahead of the clock": rows.num_rows}, "it was not the one due"


def test_a_correction_that_was_made_and_not_readable_yet_is_in_flight(answers, corrected):
    """The answer was not right any more: nothing that came later is its excuse."""
    rows, made = corrected
    found = judged(answers, logged(rows, **given(made + 1000)))
    assert found.causes == {"in flight": rows.num_rows}
    assert judged(answers, logged(rows, **given(made + 3_600_000_000))).unexplained == rows.num_rows


def test_a_row_that_was_not_the_one_due_is_in_flight_and_not_late_data(answers, corrected):
    rows, made = corrected
    found = judged(answers, logged(rows, age_s=7200, **given(made - 1000)))
    assert found.causes["in flight"] > 2 and found.unexplained == 0
    assert len(found.behind_s) == found.causes["in flight"] and (found.behind_s > 0).all()


def test_statuses_must_follow_from_ages(answers):
    rows, n = newest_at_the_end(answers[1]), 3
    old = {"origin_traffic__tandem_status": pa.array(["OUTSIDE_MAX_AGE"] * n)}
    none = {f"origin_traffic__{f}": pa.nulls(n, rows.schema.field(f).type) for f in ("count_1h", "dep_delay_mean_3h")}
    assert judged(answers, logged(rows, **old, **none)).unexplained == n
    found = judged(answers, logged(rows, age_s=6 * 3600 + 1, **old, **none))
    assert found.unexplained == 0 and found.statuses == {"OUTSIDE_MAX_AGE": n}
    assert judged(answers, logged(rows, age_s=6 * 3600 + 1)).unexplained == n


def test_not_found_must_be_so(answers):
    rows, n = newest_at_the_end(answers[1]), 3
    gone = {
        "origin_traffic__tandem_status": pa.array(["NOT_FOUND"] * n),
        "origin_traffic__event_timestamp": pa.nulls(n, rows.schema.field("event_timestamp").type),
        "origin_traffic__tandem_revision": pa.nulls(n, pa.int64()),
    }
    assert judged(answers, logged(rows, **gone)).unexplained == n
    assert judged(answers, logged(rows, origin=pa.array(["XXX"] * n), **gone)).causes == {"equal": n}


def test_an_answer_ahead_of_its_clock_is_called_so(answers):
    found = judged(answers, logged(newest_at_the_end(answers[1]), age_s=-10))
    assert set(found.causes) <= {"ahead of the clock", "too late"} and found.unexplained == 0


def test_answers_of_rows_that_the_run_does_not_have_are_outside_of_it(plain, honest, expected, answers, span):
    """They were called in flight. A newer row that the run has and that was due is what is missing, wherever the answer's row stands."""
    proof = proven(plain, expected, load_record(honest, "main", plain.world.repo().groups), span)
    _, delivered, readable = answers

    def causes(rows, **how):
        found = check_served(logged(rows, **how), proof, delivered, readable, None, span=span)
        assert found is not None and found.unexplained == 0
        return found.causes, found.behind_s

    at = boundaries(delivered, proof.group)
    after, before = (latest(delivered.filter(pa.array(mask)), ("origin",)) for mask in (at > span[1], at <= span[0]))
    assert causes(after)[0] == {"outside the run": 3}
    assert causes(after, age_s=-10)[0] == {"ahead of the clock": 3}, "whatever the run has"
    assert causes(before, after_s=0.001)[0] == {"outside the run": 3}
    counts, behind = causes(before, after_s=0.001, age_s=21_000)
    assert counts == {"in flight": 3} and (behind > 0).all()
    altered = {f"{NAME}__count_1h": pa.array(after["count_1h"].to_numpy() + 1)}
    found = check_served(logged(after, **altered), proof, delivered, readable, None, span=span)
    assert found is not None and found.unexplained == 3


def test_an_answer_of_an_earlier_stream_is_found_in_its_log(answers, honest, plain, tmp_path):
    """A stream that began anew has a log of its own, and the server's goes on: what it answered before is in the log that was kept."""
    proof, delivered, readable = answers
    group = plain.world.repo().groups[NAME]
    rows = newest_at_the_end(delivered)
    place = rows.schema.get_field_index("count_1h")
    before = rows.set_column(place, "count_1h", pa.array(rows["count_1h"].to_numpy() + 1))
    folder = tmp_path / "streams" / "main"
    log = RowLog(folder / "before" / "20260101T000000000000")
    for batch in before.to_batches():
        log.append(f"rows/{NAME}", 0, batch)
    shutil.copytree(honest / "rows" / NAME, folder / "before" / "20250101T000000000000" / "rows" / NAME)

    def causes(answered, earlier=lambda: read_earlier(folder, group), **how):
        found = check_served(logged(answered, **how), proof, delivered, readable, None, earlier=earlier)
        return found and found.causes

    assert causes(before, tuple) == {"unexplained": 3}
    assert causes(before) == {"earlier stream": 3}
    third = before.set_column(place, "count_1h", pa.array(before["count_1h"].to_numpy() + 1))
    assert causes(third) == {"unexplained": 3}, "as no stream delivered it"
    old = before.set_column(before.schema.get_field_index("event_timestamp"), "event_timestamp", delivered["event_timestamp"][:3])
    old = old.set_column(old.schema.get_field_index("origin"), "origin", delivered["origin"][:3])
    assert causes(old, lambda: [old], after_s=3600) == {"unexplained": 3}, "this stream had delivered a newer row before"
    typed = before.set_column(place, "count_1h", pa.array(["many"] * 3))
    assert causes(before, lambda: [typed, before]) == {"earlier stream": 3}, "rows of a definition of before, with another type"
