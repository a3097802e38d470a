"""Streams that are broken on purpose, one way each: verify finds every break."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tests.integration.pure_stream import Hooks
from transforms.definitions import Field
from transforms.fold import Shard
from transforms.graph import TransformGraph


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
