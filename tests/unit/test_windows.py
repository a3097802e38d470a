"""Which rows exist and what each window covers, against the sentences of the specification by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import strategies as _profile  # noqa: F401  (the Hypothesis profile)
from transforms import windows
from transforms.windows import Extremes, ranges, rows_of, shown


@st.composite
def tiles(draw):
    hop = draw(st.sampled_from([1, 7, 300_000_000]))
    overs = [hop * k for k in draw(st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True))]
    base = draw(st.sampled_from([0, 4_523_000]))
    places = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(base, base + 40)), max_size=25))
    after = draw(st.integers((base - 2) * hop, (base + 60) * hop))
    return hop, overs, sorted((k, t * hop) for k, t in places), after, after + draw(st.integers(0, 60 * hop))


@given(tiles())
def test_rows_exist_where_a_window_changes_and_cover_it(case):
    hop, overs, have, after, upto = case
    key, start = (np.array([h[i] for h in have], np.int64) for i in (0, 1))
    got = rows_of(key, start, hop, overs, after, upto)
    want = sorted({(k, t) for k, s in have for t in [s + hop, *(s + hop + over for over in overs)] if after < t <= upto})
    assert list(zip(got.key.tolist(), got.boundary.tolist(), strict=True)) == want
    assert set(got.spans) == set(got.begins) == set(overs)
    for over, (lo, hi) in got.spans.items():
        shows = shown(got.begins[over], np.empty(len(want), np.int64))
        for (k, boundary), content in zip(want, shows.tolist(), strict=True):
            covered = [have[j] for j in range(lo[content], hi[content])]
            assert covered == [(a, s) for a, s in have if a == k and boundary - over <= s < boundary]


@given(tiles())
def test_a_content_is_of_one_key_and_begins_where_the_window_moves(case):
    hop, overs, have, after, upto = case
    key, start = (np.array([h[i] for h in have], np.int64) for i in (0, 1))
    got = rows_of(key, start, hop, overs, after, upto)
    for over, begins in got.begins.items():
        moves = [
            i
            for i, (k, at) in enumerate(zip(got.key.tolist(), got.boundary.tolist(), strict=True))
            if i == 0 or k != got.key[i - 1] or {(k, at - hop), (k, at - hop - over)} & set(have)
        ]
        assert begins.tolist() == moves
        assert len(got.spans[over][0]) == len(got.spans[over][1]) == len(moves)


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=70),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=20),
    st.sampled_from([0, 100, 2**22]),
    st.sampled_from([np.maximum, np.minimum]),
)
def test_extremes_are_those_of_each_range(values, spans, kept, better):
    worst = -99 if better is np.maximum else 99
    spans = [tuple(sorted(min(x, len(values)) for x in span)) for span in spans]
    lo, hi = (np.array([s[i] for s in spans], np.int64) for i in (0, 1))
    pick = max if better is np.maximum else min
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "KEPT", kept)
        of = Extremes(np.array(values), worst, better)
        for _ in range(2):
            assert of.of(lo, hi).tolist() == [pick(values[a:b], default=worst) for a, b in spans]
        lo = np.unique(lo)
        hi = np.append(lo[1:], len(values))[: len(lo)]
        patch.setattr(windows, "SHORT", 3)
        assert of.apart(lo, hi).tolist() == [pick(values[a:b], default=worst) for a, b in zip(lo, hi, strict=True)]


def test_no_tiles_no_rows():
    none = np.zeros(0, np.int64)
    got = rows_of(none, none, 5, [10], 0, 100)
    assert len(got.key) == len(got.boundary) == 0
    assert all(len(x) == 0 for x in got.spans[10])


def test_the_start_is_left_out_and_the_end_is_in():
    one = np.array([0], np.int64)
    assert rows_of(one, np.array([100]), 10, [50], 110, 160).boundary.tolist() == [160]
    assert rows_of(one, np.array([100]), 10, [50], 109, 159).boundary.tolist() == [110]


@pytest.mark.parametrize("spans", [[], [(0, 0)], [(3, 5), (5, 5), (0, 2)], [(7, 7), (2, 3)]])
def test_ranges_list_every_position_with_its_owner(spans):
    lo, hi = (np.array([s[i] for s in spans], np.int64) for i in (0, 1))
    at, owner = ranges(lo, hi)
    assert at.tolist() == [p for a, b in spans for p in range(a, b)]
    assert owner.tolist() == [i for i, (a, b) in enumerate(spans) for _ in range(a, b)]
