"""The records of the proofs: what a killed broker took twice is in them twice, with the offsets that the log gave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.prove.slice import Record, as_logged


def record(partition: int, value: bytes, offset: int = 0) -> Record:
    return Record("arrivals", partition, offset, b"key", value, 0, False)


def sent(*places: tuple[int, bytes]) -> list[Record]:
    ends: dict[int, int] = {}
    out = []
    for partition, value in places:
        out.append(record(partition, value, ends.get(partition, 0)))
        ends[partition] = ends.get(partition, 0) + 1
    return out


def test_a_repeat_stands_where_the_log_has_it_and_moves_what_follows() -> None:
    records = sent((0, b"a"), (1, b"x"), (0, b"b"), (0, b"c"), (1, b"y"), (0, b"d"))
    got = as_logged(records, 4, ("arrivals", 0), [b"a", b"b", b"a", b"b", b"c"], lambda r: r.value)
    assert [(r.partition, r.value, r.offset) for r in got] == [
        (0, b"a", 0), (1, b"x", 0), (0, b"b", 1), (0, b"a", 2), (0, b"b", 3), (0, b"c", 4), (1, b"y", 1), (0, b"d", 5),
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b", b"c"])), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)), max_size=3),
    st.data(),
)
def test_the_partition_is_its_log_and_the_rest_is_as_it_was(
    places: list[tuple[int, bytes]], doubled: list[tuple[int, int]], data: st.DataObject
) -> None:
    records = sent(*places)
    fed = data.draw(st.integers(0, len(records)))
    mine = [r.value or b"" for r in records[:fed] if r.partition == 0]
    log: list[bytes] = []
    for n, value in enumerate(mine):
        log.append(value)
        for at, size in doubled:
            if at == n:  # the last few are taken again
                log += mine[max(0, n + 1 - size) : n + 1]
    got = as_logged(records, fed, ("arrivals", 0), log, lambda r: r.value)
    ours = [r for r in got if r.partition == 0]
    assert [r.value for r in ours[: len(log)]] == log and [r.offset for r in ours] == list(range(len(ours)))
    assert [r.value for r in ours[len(log) :]] == [r.value for r in records[fed:] if r.partition == 0]
    assert [r for r in got if r.partition == 1] == [r for r in records if r.partition == 1]
