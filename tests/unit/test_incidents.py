"""Weights add up to incidents: by group, within the hold, told once and at each doubling."""

from __future__ import annotations

import doctest
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import incidents
from models.incidents import IncidentParams, Suspects, _strength, peaks

PARAMS = IncidentParams(session_hold_ms=100, service_hold_ms=20, repeat_ms=500)
THRESHOLD = 3.0


@dataclass(frozen=True)
class Line:
    """A suspect; keys from 100 on are services' own."""

    key: int
    piece: int
    now: int
    weight: float
    service: int = 1

    @property
    def hold(self):
        return PARAMS.service_hold_ms if self.key >= 100 else PARAMS.session_hold_ms


def suspects(lines):
    return Suspects(
        key=np.array([line.key for line in lines], np.uint64),
        service=np.array([line.service for line in lines], np.uint64),
        piece=np.array([line.piece for line in lines], np.int32),
        now=np.array([line.now for line in lines], np.int64),
        has_session=np.array([line.key < 100 for line in lines], np.bool_),
        weight=np.array([line.weight for line in lines], np.float32),
    )


def step(found, lines, first=0):
    """What is told of some lines, as (line, strength, revision, what it was named, pieces); named by its line."""
    told = []
    for one in found.step(suspects(lines), THRESHOLD):
        at = first + one.at
        if not one.revision:
            found.name(lines[one.at].key, f"line {at}")
        told.append(
            (at, one.strength, one.revision, one.origin, [(piece, weight) for piece, (weight, _) in one.pieces.items()])
        )
    return told


@st.composite
def streams(draw):
    """Suspects of three sessions and one service, by time."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from([1, 2, 3, 100]),
                st.sampled_from([-1, 0, 1, 2]),
                st.sampled_from([0, 1, 15, 20, 21, 60, 100, 101]),
                st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0, 8.0]),
            ),
            max_size=30,
        )
    )
    now, lines = 0, []
    for key, piece, pause, weight in rows:
        now += pause
        lines.append(Line(key, piece, now, weight))
    return lines


def by_the_book(lines):
    """What is told, from the whole history of each group, without keeping any state but what was told."""
    told = []
    last = {}  # key → (strength told, revision, name, line that began the incident)
    for at, line in enumerate(lines):
        past = [(number, one) for number, one in enumerate(lines[: at + 1]) if one.key == line.key]
        begin = 0
        for place in range(1, len(past)):
            if past[place][1].now - past[place - 1][1].now > line.hold:
                begin = place
        incident = past[begin:]
        weight = {}
        for piece in {one.piece for _, one in incident}:
            seen = [one for _, one in incident if one.piece == piece]
            if line.now - seen[-1].now > line.hold:
                continue
            chain = [seen[-1]]
            for earlier in reversed(seen[:-1]):
                if chain[-1].now - earlier.now > line.hold:
                    break
                chain.append(earlier)
            weight[piece] = max(one.weight for one in chain)
        before = last.get(line.key, (0.0, -1, "", None))
        if before[3] != incident[0][0]:
            before = (0.0, -1, "", incident[0][0])
        strength = _strength(weight.values())
        if strength >= THRESHOLD and strength >= 2 * before[0]:
            revision = before[1] + 1
            pieces = sorted(weight.items(), key=lambda item: (-item[1], item[0]))
            told.append((at, strength, revision, before[2], pieces))
            before = (strength, revision, before[2] or f"line {at}", incident[0][0])
        last[line.key] = before
    return told


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(incidents)
    assert result.attempted > 0
    assert result.failed == 0


# -- what is told ----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(streams())
def test_what_is_told_is_what_the_whole_history_says(lines):
    found = PARAMS.build()
    told = [one for at, line in enumerate(lines) for one in step(found, [line], at)]
    assert told == by_the_book(lines)
    found.check()


def test_a_line_again_and_again_is_one_piece_and_distinct_ones_add_up():
    same = [Line(1, 7, at, 2.0) for at in range(50)]
    assert step(PARAMS.build(), same) == []
    distinct = [Line(1, at, at, 2.0) for at in range(5)]
    told = step(PARAMS.build(), distinct)
    assert [(at, revision) for at, _, revision, _, _ in told] == [(1, 0)]
    ends = [Line(1, 7, 0, 2.0), Line(1, -8, 1, 2.0)]  # the line, and that the session stopped after it
    assert len(step(PARAMS.build(), ends)) == 1


def test_a_piece_counts_with_its_greatest_weight():
    found = PARAMS.build()
    told = step(found, [Line(1, 7, 0, 4.0), Line(1, 7, 1, 1.0), Line(1, 8, 2, 7.0)])
    assert [pieces for _, _, _, _, pieces in told] == [[(7, 4.0)], [(8, 7.0), (7, 4.0)]]


@pytest.mark.parametrize(("key", "hold"), [(1, 100), (100, 20)])
def test_after_the_hold_the_group_is_as_new(key, hold):
    for pause, revisions in ((hold, [0]), (hold + 1, [0, 0])):
        told = step(PARAMS.build(), [Line(key, 7, 0, 4.0), Line(key, 7, pause, 4.0)])
        assert [revision for _, _, revision, _, _ in told] == revisions
        assert {origin for _, _, _, origin, _ in told} == {""}


def test_less_than_double_is_not_told_again():
    assert [at for at, *_ in step(PARAMS.build(), [Line(1, 0, 0, 4.0), Line(1, 0, 1, 7.99), Line(1, 0, 2, 8.0)])] == [
        0,
        2,
    ]


def test_it_is_told_again_at_each_doubling_under_the_name_of_the_first_telling():
    weights = [3.0, 4.0, 6.0, 50.0]
    told = step(PARAMS.build(), [Line(1, at, at, weight) for at, weight in enumerate(weights)])
    strengths = [strength for _, strength, _, _, _ in told]
    assert len(told) >= 2
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(strengths))
    assert [revision for _, _, revision, _, _ in told] == list(range(len(told)))
    found = PARAMS.build()
    step(found, [Line(1, 0, 0, 3.0)])
    assert [origin for _, _, _, origin, _ in step(found, [Line(1, 1, 1, 50.0)], 1)] == ["line 0"]


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_when_there_are_too_many_groups_the_longest_untouched_give_way():
    found = IncidentParams(session_hold_ms=10_000, max_groups=16).build()
    told = []
    for at in range(200):
        told += step(found, [Line(at % 90 + 2, 0, at, 1.0), Line(1, 0, at, 4.0)], 2 * at)
        found.check()
    assert len(found) <= 16
    assert found.evicted > 100
    assert [at for at, _, _, _, _ in told] == [1]  # the busy group kept its own and was told once


def test_an_incident_that_gave_way_in_the_batch_that_told_it_has_no_name_to_keep():
    found = IncidentParams(max_groups=4).build()
    late_end = Line(1, -1, -1_000_000, 9.0)  # its time is that of the session's newest line
    told = step(found, [late_end, *(Line(2 + at, 0, at, 1.0) for at in range(10))])
    assert [at for at, _, _, _, _ in told] == [0]
    assert found.evicted > 0
    found.check()


def test_a_group_keeps_a_bounded_number_of_pieces_the_strongest():
    found = PARAMS.build()
    step(found, [Line(1, piece, 0, 1.0 + (piece % 100) / 8) for piece in range(100)])
    found.check()
    (told,) = found.step(suspects([Line(1, 1_000, 0, 1e6)]), THRESHOLD)
    weights = [weight for weight, _ in told.pieces.values()]
    assert 10 < len(weights) < 100
    assert weights == sorted(weights, reverse=True)
    assert weights[1] == 1 + 99 / 8
    assert weights[-1] > 1 + 70 / 8


@settings(max_examples=100, deadline=None)
@given(streams(), st.sets(st.integers(0, 30)))
def test_freeing_what_no_line_can_touch_changes_nothing(lines, when):
    found = PARAMS.build()
    told = []
    for at, line in enumerate(lines):
        told += step(found, [line], at)
        if at in when:
            found.expire({1: line.now})
    assert told == by_the_book(lines)
    found.expire({1: 10_000})
    assert len(found) == 0


def test_a_service_is_forgotten_alone():
    found = PARAMS.build()
    step(found, [Line(1, 0, 0, 4.0, service=1), Line(2, 0, 0, 4.0, service=2)])
    found.touched()
    found.drop(1)
    assert len(found) == 1
    again = PARAMS.build()
    again.apply(found.touched())
    assert len(again) == 0
    assert [revision for _, _, revision, _, _ in step(found, [Line(1, 0, 1, 4.0), Line(2, 0, 1, 4.0)])] == [0]


# -- bytes -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(streams(), st.dictionaries(st.integers(0, 30), st.booleans(), max_size=6))
def test_state_restored_at_any_cut_goes_on_as_if_nothing_had_happened(lines, cuts):
    """A cut restores from a snapshot, or from the journal of all that was touched."""
    found = PARAMS.build()
    told, journal = [], []
    for at, line in enumerate(lines):
        if at in cuts:
            before = found
            journal = [before.to_bytes()] if cuts[at] else journal
            found = PARAMS.build()
            for entry in journal:
                found.apply(entry)
            assert found.to_bytes() == before.to_bytes()
        told += step(found, [line], at)
        journal.append(found.touched())
    assert told == by_the_book(lines)


def test_what_gave_way_is_gone_after_a_restore_too():
    params = IncidentParams(max_groups=8)
    found, journal = params.build(), []
    for at in range(100):
        step(found, [Line(at, 0, at, 1.0)])
        journal.append(found.touched())
    again = params.build()
    for entry in journal:
        again.apply(entry)
        again.check()
    assert again.to_bytes() == found.to_bytes()


def test_nothing_touched_is_no_bytes_and_another_version_is_refused():
    found = PARAMS.build()
    assert found.touched() == b""
    found.apply(b"")
    step(found, [Line(1, 0, 0, 4.0)])
    data = found.touched()
    assert data != b""
    assert found.touched() == b""
    with pytest.raises(ValueError, match=r"version 9.*CHANGELOG"):
        found.apply(b"\x09" + data[1:])


# -- strengths of normal lines ---------------------------------------------------------------------------------------


def test_the_peaks_are_the_greatest_strengths_without_any_threshold_descending():
    lines = [Line(1, 0, 0, 1.0), Line(1, 1, 10, 2.0), Line(2, 0, 20, 4.0), Line(1, 0, 5_000, 1.0)]
    found = peaks(suspects(lines), PARAMS)
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    assert found.tolist() == [4.0, _strength([1.0, 2.0]), 1.0]
    assert len(peaks(suspects([]), PARAMS)) == 0


def test_what_repeats_within_the_hour_is_one_to_a_person():
    again = [Line(key, 0, key * 400, 2.0 + key) for key in (1, 2, 3)]
    assert len(peaks(suspects(again), PARAMS)) == 1
    assert len(peaks(suspects([Line(key, 0, key * 600, 2.0) for key in (1, 2, 3)]), PARAMS)) == 3
    other_kinds = [Line(key, key, key * 400, 2.0) for key in (1, 2, 3)]
    other_services = [Line(key, 0, key * 400, 2.0, service=key) for key in (1, 2, 3)]
    assert len(peaks(suspects(other_kinds), PARAMS)) == len(peaks(suspects(other_services), PARAMS)) == 3
