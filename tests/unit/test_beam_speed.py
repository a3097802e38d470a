"""Beam's own answer, for DoFns of all kinds, whether or not it was asked the quick way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions, StandardOptions
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain

from pipelines.batch.beam_speed import describe_quickly

COUNT = userstate.ReadModifyWriteStateSpec("count", VarIntCoder())
EXPIRY = userstate.TimerSpec("expiry", TimeDomain.WATERMARK)
TIMER = beam.DoFn.TimerParam(EXPIRY)


class Plain(beam.DoFn):
    def process(self, element: int, factor: int = 2) -> Iterable[int]:
        yield element * factor


class Counted(beam.DoFn):
    def process(self, element: Any, count: Any = beam.DoFn.StateParam(COUNT), expiry: Any = TIMER) -> None:
        pass

    @userstate.on_timer(EXPIRY)
    def expired(self, count: Any = beam.DoFn.StateParam(COUNT)) -> None:
        pass


class OnlyAtTheEnd(Plain):
    def finish_bundle(self, count: Any = beam.DoFn.StateParam(COUNT)) -> None:
        pass


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return call


class Wrapped(beam.DoFn):
    @logged
    def process(self, element: Any, count: Any = beam.DoFn.StateParam(COUNT)) -> None:
        pass


class Twice(beam.DoFn):
    def process(self, element: Any, a: Any = beam.DoFn.StateParam(COUNT), b: Any = beam.DoFn.StateParam(COUNT)) -> None:
        pass


def _of_state(element: Any, count: Any = beam.DoFn.StateParam(COUNT)) -> None:
    pass


KINDS = [
    Plain(),
    Counted(),
    OnlyAtTheEnd(),
    Wrapped(),
    beam.Map(len).fn,
    beam.FlatMap(lambda x, y=1: [x, y]).fn,
    beam.ParDo(_of_state).fn,
    beam.Map(_of_state).fn,
]


@pytest.mark.parametrize("dofn", KINDS, ids=lambda dofn: type(dofn).__name__)
def test_the_state_and_timers_of_a_dofn_are_those_that_beam_finds(dofn: Any) -> None:
    describe_quickly()
    describe_quickly()
    quick: Any = userstate.get_dofn_specs
    assert quick.quick and not hasattr(quick.__wrapped__, "quick")
    assert quick(dofn) == quick.__wrapped__(dofn)
    assert bool(quick(dofn)[0]) == any(k in type(dofn).__name__ for k in ("Counted", "End", "Wrapped")) or "Callable" in type(dofn).__name__


def test_a_parameter_that_stands_twice_is_refused_as_before() -> None:
    describe_quickly()
    with pytest.raises(ValueError, match="duplicate process method parameters"):
        userstate.get_dofn_specs(Twice())


def test_the_stages_of_a_stream_keep_their_state() -> None:
    from pipelines.streaming.stages import fold_shard, poll

    describe_quickly()
    found = [
        v for m in (fold_shard, poll) for v in vars(m).values() if isinstance(v, type) and issubclass(v, beam.DoFn) and v is not beam.DoFn
    ]
    assert found
    slow: Any = userstate.get_dofn_specs
    for kind in found:
        dofn = kind.__new__(kind)
        assert userstate.get_dofn_specs(dofn) == slow.__wrapped__(dofn)


class Own(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument("--own_words", action="append", default=[])
        parser.add_argument("--own_much", type=int, default=3)


def test_options_are_seen_as_each_class_of_them_as_beam_sees_them() -> None:
    """Also what was set in one view is there in all, and another pipeline's options have nothing of it."""
    describe_quickly()
    slow: Any = PipelineOptions.view_as
    flags = ["--direct_num_workers=3", "--own_words=a", "--own_words=b", "--experiments=x", "--unknown=1"]
    ours, beams = PipelineOptions(flags, own_much=7), PipelineOptions(flags, own_much=7)

    def told(options: Any, view_as: Any) -> list[Any]:
        found = []
        for cls in (DirectOptions, StandardOptions, Own, DebugOptions, Own, StandardOptions, DirectOptions):
            view = view_as(options, cls)
            assert type(view) is cls
            found.append({name: getattr(view, name) for name in view._visible_option_list()})
            if cls is Own:
                view.own_much += 1
                view.own_words.append("more")
        return [*found, options.get_all_options(), view.get_all_options(drop_default=True), str(view), dir(view)]

    assert slow.quick and told(ours, slow) == told(beams, slow.__wrapped__)
    assert ours.view_as(Own).own_words == ["a", "b", "more", "more"] and ours.view_as(Own).own_much == 9
    assert PipelineOptions(flags).view_as(Own).own_much == 3
    with pytest.raises(AttributeError, match="no attribute 'own_much'"):
        ours.view_as(DirectOptions).own_much  # noqa: B018


def test_a_class_of_options_is_parsed_once_for_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    describe_quickly()
    options, parsed, genuine = PipelineOptions([]), list[type](), Own.__dict__["_add_argparse_args"].__func__

    def counting(cls: type, parser: Any) -> None:
        parsed.append(cls)
        genuine(cls, parser)

    monkeypatch.setattr(Own, "_add_argparse_args", classmethod(counting))
    assert [options.view_as(Own).own_much for _ in range(9)] == [3] * 9
    assert parsed == [Own]
