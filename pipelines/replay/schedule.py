"""Which events a replay sends, when, and how often: pure functions on columns, no Kafka and no files.

Every decision about an event is drawn from a hash of the seed and of the event's identity (its source, file and row), never
from a running generator. So the same seed alters the same events, whatever the range, the speed or the size of the slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.definitions import EventSource, micros
from transforms.errors import ConfigError
from transforms.hashing import hash64, mix

__all__ = ["Alterations", "Plan", "identities", "partitions_of", "plan"]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PLAIN, DELAYED, LATE = 0, 1, 2
"""How an event comes: in its time; later, but still counted; later than the allowed lateness."""
ORIGINAL, DUPLICATE, CORRUPT = 0, 1, 2
"""What is sent: the event; the same record again; a broken copy of it."""

_HOUR = 3_600_000_000


@dataclass(frozen=True)
class Alterations:
    """Shares of events, each from 0 to 1, that a replay alters on purpose, and the seed that picks them."""

    seed: int = 0
    disorder: float = 0.0
    """Events that come later than their time, half of them within the out-of-orderness, half within the allowed lateness."""
    late: float = 0.0
    """Events that come after the allowed lateness."""
    duplicates: float = 0.0
    """Events whose record is sent once more."""
    corrupt: float = 0.0
    """Events beside which a broken copy is sent."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "seed" and not 0 <= value <= 1:
                raise ConfigError(f"--{f.name} {value}: a share of the events is between 0 and 1, e.g. 0.01")
        if self.disorder + self.late > 1:
            raise ConfigError(f"--disorder {self.disorder} and --late {self.late} are more than all events together; lower one")


@dataclass(frozen=True)
class Plan:
    """M records to send for N >= 0 events, in no order: each event once as ORIGINAL, beside duplicates and broken copies.

    ``row`` (int64 [M]) is the event's index; ``arrival_us`` (int64 [M]) the simulated instant of its arrival, in event time;
    ``kind`` (uint8 [M]) PLAIN, DELAYED or LATE; ``role`` (uint8 [M]) ORIGINAL, DUPLICATE or CORRUPT; ``dice`` (uint64 [M])
    random bits for whoever breaks the copy.
    """

    row: I64
    arrival_us: I64
    kind: npt.NDArray[np.uint8]
    role: npt.NDArray[np.uint8]
    dice: U64


def identities(source: str, file: str, numbers: I64) -> U64:
    """What the dice of N events are thrown with: a hash (uint64 [N]) of the names of source and file and the row in the file."""
    place = hash64(pa.array([source, file]))
    return mix(mix(np.full(len(numbers), place[0])) ^ place[1]) ^ mix(numbers.astype(np.uint64))


def plan(times_us: I64, ids: U64, source: EventSource, how: Alterations) -> Plan:
    """What to send for N events of a source with these event times (int64 [N]) and identities (uint64 [N]).

    A delayed event comes at most ``out_of_orderness + allowed_lateness`` after its time, a late one at least 1 ms more than
    that. (Whether it *is* too late is the stream's verdict: some newer event must have come before it in its partition.)
    A duplicate comes with its event or up to the out-of-orderness after it; a broken copy comes with its event.
    """
    slack, lateness = micros(source.out_of_orderness), micros(source.allowed_lateness)
    base = mix(ids ^ mix(np.full(1, how.seed & (2**64 - 1), dtype=np.uint64)))

    def unit(k: int) -> npt.NDArray[np.float64]:
        """Uniform in [0, 1), the k-th throw of each event."""
        out: npt.NDArray[np.float64] = (mix(base + np.uint64(k)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return out

    n = len(times_us)
    pick, size = unit(1), unit(2)
    late = pick < how.late
    delayed = ~late & (pick < how.late + how.disorder)
    within = unit(3) < 0.5
    delay = np.zeros(n, dtype=np.int64)
    # 1 + floor(u * width) lies in [1, width] for every u below 1.
    near, far = _spread(size, slack), slack + _spread(size, lateness)
    delay[delayed] = np.where(within & (slack > 0), near, far)[delayed]
    delay[late] = (slack + lateness + 1_000 + _spread(size, slack + lateness + _HOUR))[late]
    arrival = times_us + delay
    kind = np.where(late, LATE, np.where(delay > 0, DELAYED, PLAIN)).astype(np.uint8)

    again = np.flatnonzero(unit(4) < how.duplicates)
    wait = np.where(unit(5) < 0.5, 0, _spread(unit(6), slack))[again]
    broken = np.flatnonzero(unit(7) < how.corrupt)
    row = np.concatenate([np.arange(n, dtype=np.int64), again, broken])
    role = np.repeat(np.array([ORIGINAL, DUPLICATE, CORRUPT], dtype=np.uint8), [n, len(again), len(broken)])
    return Plan(row, np.concatenate([arrival, arrival[again] + wait, arrival[broken]]), kind[row], role, mix(base + np.uint64(8))[row])


def _spread(unit: npt.NDArray[np.float64], width: int) -> I64:
    """Whole microseconds of [1, width], 0 where the width is 0."""
    out: I64 = np.minimum(np.floor(unit * width).astype(np.int64) + 1, width)
    return out


def partitions_of(keys: pa.Array | Sequence[bytes], count: int) -> npt.NDArray[np.int32]:
    """The partition of each of N keys (binary, no nulls) among ``count``: Kafka's murmur2, as its own producers choose it."""
    keys = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.binary())
    n = len(keys)
    if n == 0 or count == 1:
        return np.zeros(n, dtype=np.int32)
    _, ends, data = keys.buffers()
    offsets = np.frombuffer(ends, dtype=np.int32)[keys.offset : keys.offset + n + 1].astype(np.int64)
    start, length = offsets[:-1] - offsets[0], np.diff(offsets)
    total = int(offsets[-1] - offsets[0])
    text = np.zeros(total + 4, dtype=np.uint8)
    if total:
        text[:total] = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]]
    words: npt.NDArray[np.uint32] = np.ndarray(shape=(total + 1,), dtype="<u4", buffer=text.data, strides=(1,))
    m, shift = np.uint32(0x5BD1E995), np.uint32(24)
    h = np.uint32(0x9747B28C) ^ length.astype(np.uint32)
    for step in range(int(length.max()) // 4):
        at = np.flatnonzero(length >= 4 * step + 4)
        k = words[start[at] + 4 * step] * m
        h[at] = (h[at] * m) ^ ((k ^ (k >> shift)) * m)
    rest = np.flatnonzero(length % 4)
    keep = (np.uint32(1) << (np.uint32(8) * (length[rest] % 4).astype(np.uint32))) - np.uint32(1)
    h[rest] = (h[rest] ^ (words[start[rest] + length[rest] // 4 * 4] & keep)) * m
    h = (h ^ (h >> np.uint32(13))) * m
    h ^= h >> np.uint32(15)
    return ((h & np.uint32(0x7FFFFFFF)) % np.uint32(count)).astype(np.int32)
