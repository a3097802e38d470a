"""The contract of a record format (:mod:`pipelines.sources.formats.record_format`): exact round trips, and no damage that spreads.

A format of another package is tested by a class of four lines::

    class TestMyFormat(RecordFormatContract):
        @pytest.fixture
        def format_name(self):
            return "my-format"  # as its entry point is called

Where the format needs settings, ``kafka_settings`` is overridden too. A record's key and headers go to dead letters as they came; where a
field stands there they come to ``decode`` as ``origin``, which it hands to the contract.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import RecordFormat, record_format
from transforms.contract import Checked, check_json, encode_json
from transforms.definitions import EventSource, Field
from transforms.reasons import REASONS

__all__ = ["AHEAD", "NOW", "SOURCES", "TEXTS", "RecordFormatContract", "events"]

NOW = 1_700_000_000_000_000
AHEAD = 3_600_000_000
_WIDE = EventSource(
    name="departures",
    fields=[
        Field("flight", "string", required=True),
        Field("origin", "string", required=True),
        Field("delay", "float64"),
        Field("legs", "int64"),
        Field("diverted", "bool"),
        Field("landed_at", "timestamp"),
    ],
    event_time="at",
    tie_breaker="flight",
    topic="departures",
)
_STRICT = replace(
    _WIDE,
    fields=[
        Field("flight", "string", required=True),
        Field("origin", "string", required=True, domain=["EWR", "JFK"]),
        Field("delay", "float64", required=True, min=-120, max=3000),
        Field("legs", "int64", min=0, max=9),
        Field("diverted", "bool"),
        Field("landed_at", "timestamp"),
    ],
)
SOURCES = {
    "every type": _WIDE,
    "a number identifies": EventSource(
        name="few", fields=[Field("id", "int64", required=True)], event_time="at", tie_breaker="id", topic="few"
    ),
    "names that need care": EventSource(
        name="texts",
        fields=[Field("id", "string", required=True), Field("class", "string"), Field("b", "bool"), Field("a", "bool")],
        event_time="time",
        tie_breaker="id",
        topic="texts",
    ),
}
"""Sources of which every format carries the events."""

TEXTS = ["", "x", " ", "naïve ✈ 𝄞", 'a"b', "a,b;c\td", "line\nbreak\r\n", "\\", "null", "None", "0", "1e5", "true", "\x00\x01", "x" * 3000]
"""Texts that need care."""
_FLOATS = [0.0, 0.1, -1.5, 5e-324, 1.7976931348623157e308, 2.0**53, 1e22, 1 / 3, 100.0]
_INTS = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
_TIMES = [1, 0, -1, NOW, NOW + 999_999, int(datetime(9999, 12, 31).timestamp()) * 1_000_000]


def events(source: EventSource, n: int, seed: int = 0, texts: Sequence[str] = TEXTS) -> pa.RecordBatch:
    """N valid events of a source, with values at the edges of their types (and these ``texts``), and nulls where they may be."""
    rng = random.Random(seed)
    wells: dict[str, Any] = {"string": texts, "float64": _FLOATS, "int64": _INTS, "bool": [True, False], "timestamp": _TIMES}
    dtypes = {f.name: f for f in source.fields}
    columns = []
    for field in source.arrow_schema:
        if field.name == source.event_time:
            values: list[Any] = [NOW - 1 - rng.randrange(10**12) for _ in range(n)]
        else:
            f = dtypes[field.name]
            well = [*wells[str(f.dtype)], *([] if f.required else [None])]
            values = [rng.choice(well) for _ in range(n)]
            if f.name == source.tie_breaker:
                values = [f"{v}{i}" if f.dtype == "string" else i for i, v in enumerate(values)]
        columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=source.arrow_schema)


def _verdicts(checked: Checked) -> list[tuple[str | None, str | None]]:
    return list(zip(checked.reasons.to_pylist(), checked.details.to_pylist(), strict=True))


class RecordFormatContract:
    """What every record format holds. Subclass it as ``class TestX``; override :meth:`format_name`, :meth:`kafka_settings` if need be."""

    @pytest.fixture
    def format_name(self) -> str:
        """The name that the format is registered by."""
        raise NotImplementedError("override the fixture format_name")

    @pytest.fixture
    def kafka_settings(self) -> KafkaSettings:
        """The settings that it works with."""
        return KafkaSettings()

    @pytest.fixture(params=SOURCES)
    def form(self, request: pytest.FixtureRequest, format_name: str, kafka_settings: KafkaSettings) -> RecordFormat:
        """The format, of each of :data:`SOURCES`."""
        return record_format(SOURCES[request.param], kafka_settings, format_name)

    def test_the_settings_may_name_it(self, format_name: str, kafka_settings: KafkaSettings) -> None:
        settings = KafkaSettings(**{**kafka_settings.model_dump(), "formats": {"few": format_name}})
        assert type(record_format(SOURCES["a number identifies"], settings)) is type(
            record_format(SOURCES["a number identifies"], kafka_settings, format_name)
        )

    @pytest.mark.parametrize("n", [1, 7, 300])
    def test_events_come_back_exactly(self, form: RecordFormat, n: int, format_name: str, kafka_settings: KafkaSettings) -> None:
        sent = events(form.source, n, seed=n)
        form.prepare_to_encode()
        payloads = form.encode(sent)
        assert payloads.type == pa.binary() and len(payloads) == n and payloads.null_count == 0
        reader = record_format(form.source, kafka_settings, format_name)  # another process
        checked = reader.decode(payloads, NOW, AHEAD)
        assert _verdicts(checked) == [(None, None)] * n
        assert checked.valid.equals(sent)
        assert checked.times.to_pylist() == sent.column(form.source.event_time).to_pylist()
        assert form.decode(payloads.cast(pa.large_binary()), NOW, AHEAD).valid.equals(sent)

    def test_parts_of_batches(self, form: RecordFormat) -> None:
        """Arrow's slices share their buffers: what stands before and behind is none of it."""
        sent = events(form.source, 20)
        payloads = form.encode(sent.slice(5, 9))
        assert form.decode(payloads, NOW, AHEAD).valid.equals(sent.slice(5, 9))
        assert form.decode(payloads.slice(2, 3), NOW, AHEAD).valid.equals(sent.slice(7, 3))

    def test_nothing(self, form: RecordFormat) -> None:
        none = form.encode(events(form.source, 0))
        assert none.type == pa.binary() and len(none) == 0
        checked = form.decode(pa.array([], pa.binary()), NOW, AHEAD)
        assert (checked.valid.num_rows, len(checked.reasons), len(checked.details), len(checked.times)) == (0, 0, 0, 0)
        assert checked.valid.schema.equals(form.source.arrow_schema)

    def test_a_payload_that_is_not_there_is_a_reject(self, form: RecordFormat) -> None:
        good = form.encode(events(form.source, 1))[0].as_py()
        checked = form.decode(pa.array([good, None, b"", good], pa.binary()), NOW, AHEAD)
        assert checked.reasons.to_pylist() == [None, "malformed", "malformed", None]
        assert all(checked.details.to_pylist()[1:3])

    def test_damage_is_refused_and_touches_nothing_beside_it(self, form: RecordFormat) -> None:
        sent = events(form.source, 120, seed=3)
        good = form.encode(sent).to_pylist()
        keys = [str(k).encode() for k in sent.column(form.source.tie_breaker).to_pylist()]
        rng = random.Random(7)
        dice = [rng.randrange(2**63) for _ in good]
        broken = [form.damaged(g, k, d) for g, k, d in zip(good, keys, dice)]
        assert broken == [form.damaged(g, k, d) for g, k, d in zip(good, keys, dice)], "the dice alone decide"
        mixed = [p for pair in zip(good, broken) for p in pair]
        checked = form.decode(pa.array(mixed, pa.binary()), NOW, AHEAD)
        assert checked.accepted.tolist() == list(range(0, len(mixed), 2)), "each broken copy is refused, and nothing else"
        assert checked.valid.equals(sent)
        for reason, detail in _verdicts(checked)[1::2]:
            assert reason in REASONS
            assert detail and len(detail) < 300 and "\n" not in detail
        alone = [_verdicts(form.decode(pa.array([p], pa.binary()), NOW, AHEAD))[0] for p in broken]
        assert alone == _verdicts(checked)[1::2], "the verdict depends on the record alone"

    def test_any_bytes_have_a_verdict(self, form: RecordFormat) -> None:
        rng = random.Random(11)
        good = form.encode(events(form.source, 40, seed=5)).to_pylist()
        odd = [rng.randbytes(rng.randrange(1, 60)) for _ in range(150)]
        odd += [g[: rng.randrange(len(g))] for g in good]
        for g in good:
            at = rng.randrange(len(g))
            odd += [g[:at] + rng.randbytes(3) + g[at:], g[:at] + bytes([g[at] ^ 1 << rng.randrange(8)]) + g[at + 1 :], g + b"\xff"]
        checked = form.decode(pa.array(odd, pa.binary()), NOW, AHEAD)
        assert len(checked.accepted) + len(checked.rejected) == len(odd)
        assert all(r is None or r in REASONS for r in checked.reasons.to_pylist())
        assert all(0 < len(checked.details[i].as_py()) < 300 for i in checked.rejected.tolist())
        assert checked.valid.schema.equals(form.source.arrow_schema)
        again = form.decode(pa.array(odd[::-1], pa.binary()), NOW, AHEAD)
        assert _verdicts(again) == _verdicts(checked)[::-1], "the verdict depends on the record alone"

    def test_the_contract_judges_what_was_read(self, format_name: str, kafka_settings: KafkaSettings) -> None:
        """Written by somebody whose contract is wider: the reasons are the contract's own."""
        base = {"at": NOW - 1, "flight": "x", "origin": "EWR", "delay": 1.0, "legs": 3, "diverted": None, "landed_at": None}
        cases: list[tuple[dict[str, Any], str | None]] = [
            ({}, None),
            ({"origin": "LGA"}, "not_in_domain"),
            ({"delay": 3001.0}, "out_of_range"),
            ({"delay": None}, "missing_field"),
            ({"legs": 10}, "out_of_range"),
            ({"legs": None}, None),
            ({"at": NOW + AHEAD + 1}, "future_timestamp"),
            ({"at": NOW + AHEAD}, None),
            ({"at": NOW // 1000}, "wrong_unit_timestamp"),
            ({"flight": "x" * 70_000}, "too_long"),
        ]
        rows = [{**base, **changes} for changes, _ in cases]
        columns = [pa.array([r[f.name] for r in rows], f.type) for f in _WIDE.arrow_schema]
        payloads = record_format(_WIDE, kafka_settings, format_name).encode(pa.RecordBatch.from_arrays(columns, schema=_WIDE.arrow_schema))
        checked = record_format(_STRICT, kafka_settings, format_name).decode(payloads, NOW, AHEAD)
        assert checked.reasons.to_pylist() == [reason for _, reason in cases]

    def test_each_record_has_an_instant_of_its_own(self, form: RecordFormat) -> None:
        sent = events(form.source, 3)
        times = sent.column(form.source.event_time).cast(pa.int64()).to_numpy()
        checked = form.decode(form.encode(sent), times + np.array([0, -1, 5]), 0)
        assert checked.reasons.to_pylist() == [None, "future_timestamp", None]

    def test_a_replayed_log_keeps_what_the_contract_refuses(self, form: RecordFormat) -> None:
        sent = events(form.source, 5)
        json = encode_json(sent).to_pylist()
        log = pa.array([json[0], b'{"at":3}', *json[1:3], b"{", json[3], json[4]], pa.binary())
        form.prepare_to_encode()
        payloads = form.from_log(check_json(log, form.source, NOW, AHEAD), log)
        assert payloads.to_pylist()[1] == b'{"at":3}' and payloads.to_pylist()[4] == b"{"
        checked = form.decode(payloads, NOW, AHEAD)
        assert checked.accepted.tolist() == [0, 2, 3, 5, 6]
        assert checked.valid.equals(sent)
