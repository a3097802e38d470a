"""Faults of what surrounds a stream, each dealt while records flow: afterwards nothing is lost, and every online value is the oracle's.

On the small engine all trials that are asked for; on Flink, where one takes half a minute or more, a few.
"""

from __future__ import annotations

import random
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines.services.kafka_broker import Broker
from tests.prove import cable
from tests.prove.faults import FAULTS, HELD, Fault, noticed
from tests.prove.hostile import ClockRig, DiskRig, FaultRig, LiveClockRig, NetworkRig, network
from tests.prove.report import TOLD_APART, Part
from tests.prove.slice import Slice
from tests.prove.small import Small, Starter
from tests.prove.test_crash import FLOW_SECONDS, MOST, SEED, numbers, run_stream

FLOW = {"small": 1.0, "flink": FLOW_SECONDS}
SHARE = {"small": 1, "flink": 5}
"""Of so many trials that are asked for one is made."""


def possible(fault: Fault) -> bool:
    """Whether this machine can do it."""
    clock = shutil.which("cc") is not None
    return {ClockRig: clock, LiveClockRig: clock, DiskRig: cable.possible(), NetworkRig: cable.possible()}.get(fault.rig, True)


@pytest.mark.parametrize("engine", ["small", "flink"])
@pytest.mark.parametrize("name", FAULTS)
def test_after_every_fault_all_values_are_the_oracles(
    name: str, engine: str, trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Part
) -> None:
    if not possible(FAULTS[name]):
        pytest.skip("needs root, iproute2 and /dev/net/tun, for clocks a C compiler")
    problems = run_faults(name, engine, max(1, trials // SHARE[engine]), slice_, broker, tmp_path, report)
    assert not problems, "\n".join(problems[:20])
    kind = report.kind(f"{name}, {engine}")
    assert kind.counts[TOLD_APART], "the check that all trials pass cannot fail"
    if name == "live, clock one hour back":
        assert any(HELD in hit for hit in kind.hits), "no row ever waited for the clock"
    elif "clock" in name:
        assert not any(HELD in hit for hit in kind.hits)


@pytest.mark.parametrize("name", [n for n, fault in FAULTS.items() if fault.control])
def test_a_writer_that_drops_what_it_cannot_write_is_found(
    name: str, trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Part
) -> None:
    if not possible(FAULTS[name]):
        pytest.skip("needs root, iproute2 and /dev/net/tun")
    assert run_faults(name, "small", max(2, trials // 2), slice_, broker, tmp_path, report, stock=True)


def run_faults(
    name: str, engine: str, trials: int, slice_: Slice, broker: Broker, folder: Path, report: Part, stock: bool = False
) -> list[str]:
    """So many trials of a fault, half of them on each of its stores; what differed."""
    fault, problems = FAULTS[name], list[str]()
    with network(folder) if fault.rig is NetworkRig else nullcontext(broker) as here:
        for turn, store in enumerate(fault.stores):
            left = (trials + len(fault.stores) - 1 - turn) // len(fault.stores)
            while left:
                number, cards = next(numbers), [f"{name}, {engine}"] * min(MOST, left)
                rig = fault.rig(folder / f"{store}{number}", slice_, here, number, store, stock, poll_records=40)
                starter = Starter(rig.before, rig.environment) if engine == "small" else None
                try:
                    rng = random.Random(f"{SEED} {name} {store} {left}")
                    stream = _small(rig, starter, rng) if starter is not None else None
                    blows = {cards[0]: noticed(fault.blow)}
                    problems += run_stream(rig, cards, rng, trials < 4, report, blows, stream, FLOW[engine])
                finally:
                    rig.close()
                    if starter is not None:
                        starter.close()
                left -= len(cards)
    return problems


def _small(rig: FaultRig, starter: Starter, rng: random.Random) -> Small:
    stream = Small(rig, starter=starter, rng=rng)
    rig.streams.append(stream)
    return stream
