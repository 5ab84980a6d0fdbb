"""From lines to what detectors learn from: classes, windows, ends of sessions, and what is held out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.batch import BatchParams
from models.datasets import to_batches
from models.templates import TemplateParams
from models.training_set import LineCollector, lesson
from models.windows import WindowParams

WINDOWS = WindowParams(length=2)
TEXTS = ("alpha came", "beta was here", "gamma left at once", "delta")


def collected(rows, size=10_000, max_lines=10_000, **options):
    """What a collector has after the lines (text number, ms, session or None)."""
    collector = LineCollector(BatchParams(shards=1), TemplateParams(), max_lines, **options)
    records = []
    for text, ts, session in rows:
        found = {"@timestamp": 1_700_000_000_000 + ts, "service": "cart", "message": TEXTS[text]}
        records.append(json.dumps(found if session is None else {**found, "session": str(session)}).encode())
    for raw in to_batches(records, size=size):
        collector.add(raw)
    return collector


def learned(rows, size=10_000, ratio=0.2, windows=WINDOWS):
    return lesson(collected(rows, size), [0], windows, ratio)


def codes(data):
    """The class of each text."""
    return {TEXTS.index(name): code for code, name in enumerate(data.corpus.names) if name}


def in_sessions(sessions, step_ms=1):
    """Lines of sessions one after another, each the numbers of its texts."""
    rows = [(text, number) for number, session in enumerate(sessions) for text in session]
    return [(text, at * step_ms, number) for at, (text, number) in enumerate(rows)]


def test_classes_are_the_templates_by_id_and_windows_begin_with_padding():
    data = learned(in_sessions([[0, 1, 2], [0, 2, 1]]))
    assert data.vocabulary[:2] == (0, 0)
    assert list(data.vocabulary[2:]) == sorted(data.vocabulary[2:])
    assert len(data.corpus.names) == len(data.vocabulary) == len(data.wait_ms) == 5
    of = codes(data)
    assert data.corpus.column("code").tolist() == [of[0], of[1], of[2], of[0], of[2], of[1]]
    assert data.corpus.column("windows").tolist() == [
        [0, 0],
        [0, of[0]],
        [of[0], of[1]],
        [0, 0],
        [0, of[0]],
        [of[0], of[2]],
    ]
    assert data.corpus.length == 2


def test_the_last_sessions_are_held_out_whole():
    data = learned(in_sessions([[0, 1, 2]] * 50))
    assert data.is_held.tolist() == [False] * 120 + [True] * 30
    assert data.unit.tolist() == [number * 3 for number in range(50) for _ in range(3)]
    assert data.corpus.is_held is data.is_held


def test_lines_without_a_session_are_held_out_one_by_one():
    data = learned([(at % 2, at, None) for at in range(100)])
    assert data.is_held.tolist() == [False] * 80 + [True] * 20
    assert data.unit.tolist() == list(range(100))


def test_of_a_few_long_sessions_the_last_lines_are_held_out():
    data = learned(in_sessions([[0, 1] * 50, [1, 0] * 50]))
    assert data.is_held.tolist() == [False] * 160 + [True] * 40


@pytest.mark.parametrize("has_session", [True, False])
def test_a_template_seen_only_late_is_not_held_out(has_session):
    rows = in_sessions([[0, 1]] * 49 + [[0, 2]])
    data = learned([(text, ts, session if has_session else None) for text, ts, session in rows])
    late = data.corpus.column("code") == codes(data)[2]
    assert late.sum() == 1
    assert not data.is_held[late].any()
    assert data.is_held.sum() == (18 if has_session else 19)  # without the session, or the line, that has it


def test_the_silence_a_session_may_keep_is_twice_the_longest_that_was_seen_and_ten_seconds():
    rows = []
    for number in range(50):
        rows += [(0, number * 1000, number), (1, number * 1000 + (900 if number == 7 else 500), number)]
    data = learned(rows)
    of = codes(data)
    assert data.wait_ms[of[0]] == 2 * 900 + 10_000
    assert data.wait_ms[of[1]] == 2 * 900 + 10_000  # nothing ever followed it: the longest of all
    assert data.wait_ms[0] == -1
    assert set(learned([(at % 2, at, None) for at in range(100)]).wait_ms) == {-1}


def test_ends_are_those_of_sessions_that_stayed_silent_longer_and_name_their_session():
    rows = [row for n in range(50) for row in ((0, n * 1000, n), (1, n * 1000 + 500, n))]
    data = learned(rows)
    of = codes(data)
    ends = [batch.ends for batch in data.corpus.batches]
    told = [n for n in range(50) if n * 1000 + 500 + 11_000 < 49_500]  # the others may still go on
    assert sum(map(len, ends)) == len(told) == len(data.end_unit)
    assert {tuple(window) for end in ends for window in end.windows.tolist()} == {(of[0], of[1])}
    assert data.end_unit.tolist() == [2 * n for n in told]


@pytest.mark.parametrize("size", [1, 7])
def test_the_cut_into_batches_changes_no_lesson(size):
    rows = in_sessions([[0, 1, 2], [0, 2, 1], [3, 0]] * 20, step_ms=900)
    whole, cut = learned(rows), learned(rows, size=size)
    assert (cut.vocabulary, cut.wait_ms) == (whole.vocabulary, whole.wait_ms)
    for name in ("code", "windows", "seq", "ts", "now", "key", "has_session", "is_late"):
        assert np.array_equal(cut.corpus.column(name), whole.corpus.column(name))
    assert np.array_equal(cut.unit, whole.unit)
    assert np.array_equal(cut.is_held, whole.is_held)
    assert len(whole.end_unit) > 10
    assert sorted(cut.end_unit.tolist()) == sorted(whole.end_unit.tolist())


def test_what_exceeds_the_bound_is_left_out_and_counted():
    rows = [(at % 2, at, None) for at in range(100)]
    collector = collected(rows, size=30, max_lines=70)
    assert (collector.count, collector.left_out, collector.rejected) == (70, 30, 0)
    assert sum(map(len, collector.parts)) == 70
    assert collector.lines_by_service().tolist() == [70]


def test_only_the_lines_named_are_gathered():
    rows = [(at % 2, at, at % 4) for at in range(100)]

    def first_half(ts, session, sessions):
        return (ts < 1_700_000_000_050) & np.array([name != "3" for name in sessions])[session]

    collector = collected(rows, is_training=first_half)
    assert collector.count == 38
    assert collected(rows, service="mail").count == 0
