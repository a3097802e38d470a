"""``tandem verify``: an honest stream is explained to the last bit; every way of breaking one is found.

The stream here is the real intake, shards and delivery without Beam and Kafka (``pure_stream``), over real flights.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import apply_run
from pipelines.streaming.state.row_log import read_rows
from pipelines.verify.log import EventLog, batch_rows, compose, found_graphs, run_over
from pipelines.verify.online import check, latest
from pipelines.verify.proof import Proof, prove
from pipelines.verify.served import check_served
from pipelines.verify.stream_record import load_record
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.flights import World, make_logs, make_world, us
from tests.integration.pure_stream import Hooks, Log, kafka_log, stream
from transforms.definitions import Field
from transforms.fold import Shard
from transforms.graph import TransformGraph

BEGIN = datetime(2013, 1, 7, tzinfo=UTC)
END = datetime(2013, 1, 8, 0, tzinfo=UTC)
"""History goes up to the first; the stream takes what happened between the two."""


@dataclasses.dataclass(frozen=True)
class Expected:
    log: EventLog
    rows: dict[str, pa.Table]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A repository with an applied batch run up to BEGIN, and the topics as Kafka would hold them from a little before it on."""

    world: World
    graphs: dict[str, str]
    run: Path
    kafka: Log

    def stream(self, folder: Path, hooks: Hooks | None = None, **options: Any) -> None:
        stream(self.world.repo(), self.kafka, folder, begin=us(BEGIN), run=self.run, graphs=self.graphs, hooks=hooks, **options)

    def expected(self, folder: Path, scratch: Path) -> Expected:
        """The log that a stream's rows are made of, and the batch rows over it; the archive is given here."""
        repo = self.world.repo()
        record = load_record(folder, "main", repo.groups)
        upto = record.upto(repo.groups)
        read = {}
        for name, table in self.kafka.items():
            limit = np.array([upto[name][p] for p in sorted(upto[name])])
            read[name] = table.filter(pa.array(table["_offset"].to_numpy() < limit[table["_partition"].to_numpy()]))
        log = compose(repo, read, us(BEGIN), record.output_watermark)
        scratched, run = run_over(repo, log, scratch)
        return Expected(log, batch_rows(scratched.data, scratched.groups, run, log.start, log.end))

    def prove(self, folder: Path, expected: Expected) -> Proof:
        """What verify does with them."""
        repo = self.world.repo()
        record = load_record(folder, "main", repo.groups)
        log = expected.log
        return prove(
            record, repo.groups, expected.rows, log.events, self.graphs, lambda n: found_graphs(repo.data, repo.groups[n]), log.start
        )


def all_events(data: Path, world: World) -> Log:
    out = {}
    for name, source in world.repo().sources.items():
        files = sorted((data / source.files).rglob("*.parquet"))
        out[name] = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files]).select(source.arrow_schema.names)
    return out


def setting(folder: Path, logs: Path, *, light: bool, late: float = 0.03, partitions: int = 3) -> Setting:
    world = make_world(folder, logs, light=light)
    result = world.run(BEGIN - timedelta(days=1), BEGIN)
    repo = world.repo()
    graphs = apply_run(repo, result.run)
    events = all_events(logs, world)
    times = {n: t.column(repo.sources[n].event_time).cast(pa.int64()).to_numpy() for n, t in events.items()}
    since = us(BEGIN) - 3_600_000_000
    live = {n: t.filter(pa.array((times[n] >= since) & (times[n] < us(END)))) for n, t in events.items()}
    sources = {n: s for n, s in repo.sources.items() if n in {g.source.name for g in repo.groups.values()}}
    kafka = kafka_log({n: live[n] for n in sources}, sources, seed=5, partitions=partitions, disorder=0.1, late=late)
    return Setting(world, graphs, result.run.folder, kafka)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("logs")
    make_logs(data)
    return data


@pytest.fixture(scope="module")
def plain(logs, tmp_path_factory) -> Setting:
    """The light repository; events come disordered, some too late."""
    return setting(tmp_path_factory.mktemp("plain"), logs, light=True)


@pytest.fixture(scope="module")
def honest(plain, tmp_path_factory) -> Path:
    """The folder of a stream that does as it should."""
    folder = tmp_path_factory.mktemp("honest") / "stream"
    plain.stream(folder)
    return folder


@pytest.fixture(scope="module")
def expected(plain, honest, tmp_path_factory) -> Expected:
    return plain.expected(honest, tmp_path_factory.mktemp("scratch"))


def totals(proof: Proof) -> dict[str, int]:
    out: dict[str, int] = {}
    for g in proof.groups.values():
        rows = g.rows()
        out["compared"] = out.get("compared", 0) + rows["compared"]
        out["equal"] = out.get("equal", 0) + rows["equal"]
        for kind in ("different", "missing", "extra"):
            for cause, n in rows[kind].items():
                out[f"{kind}, {cause}"] = out.get(f"{kind}, {cause}", 0) + n
    return out


def test_an_honest_stream_is_explained_to_the_last_bit(plain, honest, expected):
    proof = plain.prove(honest, expected)
    found = totals(proof)
    assert proof.unexplained == 0 and proof.problems() == []
    assert set(found) == {"compared", "equal", "different, too late", "missing, too late", "missing, in flight"}
    assert found["equal"] > 2_000 and found["different, too late"] > 300
    assert sum(s.noted for s in proof.sources.values()) > 15


@pytest.mark.parametrize(("shards", "seed"), [(1, 1), (5, 2)])
def test_shards_and_polls_change_nothing(plain, expected, tmp_path, shards, seed):
    plain.stream(tmp_path / "stream", shards=shards, seed=seed)
    assert plain.prove(tmp_path / "stream", expected).problems() == []


def test_a_stream_that_has_not_read_all_is_in_flight(plain, expected, tmp_path):
    """The log goes further than the stream: each difference is what it has not read."""
    plain.stream(tmp_path / "stream", upto=0.8)
    proof = plain.prove(tmp_path / "stream", expected)
    assert proof.problems() == []
    found = totals(proof)
    assert found["missing, in flight"] > 300 and found["equal"] > 1_500


def test_a_batch_run_over_the_files_can_be_compared_with_instead(plain):
    """Without Kafka: the topics held each event of the files once, so what came too late is found by its content."""
    plain.stream(plain.world.data / "stream" / "main")
    run = plain.world.run(BEGIN, END + timedelta(hours=3), pinned=True).run
    options = VerifyOptions(against=run.id, online=False)
    result = run_verify(plain.world.repo(), options)
    assert result["verdict"] == "proven" and result["notices"] == [] and result["batch"]["run"] == run.id
    assert set(result["values"]["different"]) == {"too late"} and result["values"]["equal"] > 10_000
    path = plain.world.data / "events" / "departures" / "date=2013-01-06" / "part-0.parquet"
    before = path.read_bytes()
    try:
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.slice(table.num_rows // 2), path)
        result = run_verify(plain.world.repo(), options)
    finally:
        path.write_bytes(before)
    assert "date=2013-01-06/part-0.parquet changed since run" in result["notices"][0]


@pytest.mark.parametrize("upto", [1.0, 0.6])
def test_a_killed_stream_is_taken_as_far_as_its_checkpoints_go(plain, expected, tmp_path, upto):
    """It delivered rows, and corrections of rows, after the last checkpoint that it saved."""
    saved: Counter[int] = Counter()

    def sometimes(progress):
        saved[progress["shard"]] += 1
        return progress if saved[progress["shard"]] <= 12 else {}

    plain.stream(tmp_path / "stream", Hooks(checkpoint=sometimes), upto=upto)
    record = load_record(tmp_path / "stream", "main", plain.world.repo().groups)
    assert record.ahead > 100
    proof = plain.prove(tmp_path / "stream", expected)
    assert proof.problems() == []
    assert totals(proof)["missing, in flight"] > 300


# ----------------------------------------------------------------------------------------------------- broken on purpose


def _constant(groups):
    """Late means more than 16 minutes, not 15."""
    traffic = groups["origin_traffic"]
    changed = [dataclasses.replace(a, where=Field("dep_delay") > 16) if a.name == "late_departures" else a for a in traffic.aggregates]
    return {**groups, "origin_traffic": dataclasses.replace(traffic, aggregates=changed)}


def once(action, group="aircraft", least=5):
    """A hook that acts on the second piece that holds ``least`` rows of a group, and leaves all others as they are."""
    seen = []

    def hook(batches, number):
        if group in batches and batches[group].num_rows >= least:
            seen.append(number)
            if len(seen) == 2:
                return action(batches)
        return batches

    return hook


def doubled(batches):
    return {n: pa.Table.from_batches([b, b]).combine_chunks().to_batches()[0] for n, b in batches.items()}


def replaced(batch, name, values):
    at = batch.schema.get_field_index(name)
    return pa.RecordBatch.from_arrays([*batch.columns[:at], values, *batch.columns[at + 1 :]], schema=batch.schema)


def last_bit(rows):
    """A mean is off by one unit in the last place in a single row, as a sum in order of arrival would have it."""
    batch = rows["carrier_traffic"]
    values = batch.column(batch.schema.get_field_index("dep_delay_mean_24h")).to_numpy(zero_copy_only=False).copy()
    values[:1] = np.nextafter(values[:1], np.inf)
    return {**rows, "carrier_traffic": replaced(batch, "dep_delay_mean_24h", pa.array(values, mask=np.isnan(values)))}


def invented(rows):
    """A row more, at an instant at which none is."""
    one = rows["aircraft"].slice(0, 1)
    column = one.column(one.schema.get_field_index("event_timestamp"))
    moved = replaced(one, "event_timestamp", pa.array(column.cast(pa.int64()).to_numpy() - 1).cast(column.type))
    return {**rows, "aircraft": pa.Table.from_batches([rows["aircraft"], moved]).combine_chunks().to_batches()[0]}


class OpenBorder(Shard):
    """An event at the very border falls into the window before."""

    def fold(self, span, events):
        shifted = {}
        for name, batch in events.items():
            time = pa.array(batch.column(0).cast(pa.int64()).to_numpy() - 1).cast(batch.column(0).type)
            shifted[name] = pa.RecordBatch.from_arrays([time, *batch.columns[1:]], schema=batch.schema)
        return super().fold(span, shifted)


class NeverCorrects(Shard):
    """Late events are folded, but the rows that they touch are not emitted again."""

    def fold(self, span, events):
        self.done = {}
        for state in self.partitions[span.source].values():
            state.done = 10**9
        return super().fold(span, events)


def _late_log_lost(late):
    return {}


def _late_log_of_others(late):
    """The late log names other events than those that were left out."""
    out = {}
    for name, batch in late.items():
        out[name] = replaced(batch, "_offset", pa.array(batch.column(batch.schema.get_field_index("_offset")).to_numpy() + 1))
    return out


class CallsInTimeLate(Shard):
    """Puts one event that came in time aside, and notes it as late for its group."""

    def fold(self, span, events):
        name = "origin_traffic"
        put_aside = None
        if name in events and events[name].num_rows > 3 and not getattr(self, "stole", False):
            self.stole = True
            put_aside, events = events[name].slice(0, 1), {**events, name: events[name].slice(1)}
        folded = super().fold(span, events)
        if put_aside is None:
            return folded
        return dataclasses.replace(folded, late={**folded.late, name: put_aside})


def _boasts(progress):
    """The checkpoint claims a boundary that was not emitted."""
    return {**progress, "output_watermark": {n: b + 6 * 3_600_000_000 for n, b in progress["output_watermark"].items()}}


def _stale_graph(deliver):
    """Rows bear the name of a graph that does not exist."""
    graph = deliver.graphs["aircraft"]
    deliver.graphs["aircraft"] = TransformGraph(graph.path, "0" * 64, graph.input_schema, graph.output_schema)


BREAKS = {
    "a changed constant": (Hooks(groups=_constant), "different rows"),
    "a dropped batch": (Hooks(events=once(lambda events: {})), "rows that nothing explains"),
    "a double count": (Hooks(events=once(doubled)), "different rows"),
    "a single lost event": (Hooks(events=once(lambda events: {**events, "aircraft": events["aircraft"].slice(1)})), "aircraft"),
    "an off-by-one window border": (Hooks(shard=OpenBorder), "different rows"),
    "late events do not correct": (Hooks(shard=NeverCorrects), "different rows"),
    "the last bit of a mean": (Hooks(rows=once(last_bit, "carrier_traffic", 1)), "carrier_traffic"),
    "lost rows": (Hooks(rows=once(lambda rows: {})), "missing rows"),
    "invented rows": (Hooks(rows=once(invented)), "extra rows"),
    "a lost late log": (Hooks(late=_late_log_lost), "too late, but are not in the late log"),
    "a late log of other events": (Hooks(late=_late_log_of_others), "are in the late log, but came in time"),
    "a checkpoint that boasts": (Hooks(checkpoint=_boasts), "missing rows"),
    "a graph that does not exist": (Hooks(deliver=_stale_graph), "bear a fingerprint that no graph of the group has"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_every_break_is_found(plain, expected, tmp_path, name):
    hooks, says = BREAKS[name]
    plain.stream(tmp_path / "stream", hooks)
    proof = plain.prove(tmp_path / "stream", expected)
    assert proof.unexplained > 0
    assert any(says in line for line in proof.problems()), proof.problems()


def test_an_event_put_aside_for_one_group_is_seen_as_such(plain, expected, tmp_path):
    """Only an idle partition excuses it, which the log cannot tell: so it is a cause of its own, never "too late"."""
    plain.stream(tmp_path / "stream", Hooks(shard=CallsInTimeLate))
    rows = plain.prove(tmp_path / "stream", expected).groups["origin_traffic"].rows()
    assert rows["different"]["behind an idle partition"] > 10


@pytest.mark.parametrize("change", ["count", "mean"])
def test_an_aggregate_changed_below_everything_is_found(plain, expected, tmp_path, monkeypatch, change):
    """A constant deep inside: the windows of the stream are one hop too long; its sums are those of another order."""
    from transforms import aggregates, exact, windows

    if change == "count":

        def rows_of(key, tile_start, hop, overs, after, upto):
            rows = windows.rows_of(key, tile_start, hop, overs, after, upto)
            return dataclasses.replace(rows, spans={o: (np.maximum(lo - 1, 0), hi) for o, (lo, hi) in rows.spans.items()})

        monkeypatch.setattr(aggregates, "rows_of", rows_of)
    else:
        monkeypatch.setattr(exact, "to_float", lambda limbs, *origin, of=exact.to_float: of(limbs, *origin) * (1 + 2**-52))
    plain.stream(tmp_path / "stream")
    monkeypatch.undo()
    assert any("different rows" in line for line in plain.prove(tmp_path / "stream", expected).problems())


# --------------------------------------------------------------------------------------------------------- online, served


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


@pytest.fixture(scope="module")
def answers(plain, honest, expected):
    """The proof, what was delivered for origin_traffic, and answers as a good server would have logged them."""
    groups = plain.world.repo().groups
    delivered = {n: read_rows(honest, n) for n in groups}
    readable = load_record(honest, "main", groups).readable(delivered, groups)
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


def test_a_revision_that_was_corrected_later_is_late_data(answers):
    delivered = answers[1]
    names = ["origin", "event_timestamp"]
    table = delivered.append_column("n", pa.array(np.arange(delivered.num_rows)))
    most = table.group_by(names).aggregate([("tandem_revision", "max"), ("n", "min")])
    first = delivered.take(most.column("n_min"))
    corrected = first.filter(pc.less(first.column("tandem_revision"), most.column("tandem_revision_max")))
    assert corrected.num_rows > 5
    found = judged(answers, logged(corrected, after_s=0.001))
    assert found.causes["late data"] > 2 and found.unexplained == 0


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
