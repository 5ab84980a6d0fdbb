"""What the n-gram detector alone promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import log10

import numpy as np
import pytest

from models.detectors import ngram
from models.detectors.contract import Learned
from models.detectors.ngram import NgramParams
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import (
    CLOCK,
    END,
    NAMES,
    batches,
    corpus,
    is_faulty,
    lines,
    missing,
    new_text,
    stopped,
    swapped,
)

FAULTY = (5, 20, 33, 47)


@pytest.fixture(scope="module")
def learned():
    return NgramParams().learn(corpus())


@pytest.fixture
def detector(learned):
    return NgramParams().build(learned, NAMES)


def planted(fault):
    seen = batches(lines(80, seed=9, fault=fault, faulty=FAULTY))[0]
    return seen, is_faulty(seen, FAULTY)


@pytest.mark.parametrize("fault", [swapped, missing, new_text])
def test_a_session_out_of_order_scores_above_every_normal_line(fault, detector):
    seen, is_bad = planted(fault)
    score = detector.step(seen).line
    worst = [np.nanmax(score[seen.key == 1_000 + number]) for number in FAULTY]
    assert min(worst) > 3
    assert np.nanmax(score[~is_bad]) < 0.1


def test_a_session_that_stops_half_way_is_found_by_its_end(detector):
    seen, _ = planted(stopped)
    end = detector.step(seen).end
    is_bad = np.isin(seen.ends.key, [1_000 + number for number in FAULTY])
    assert end[is_bad].min() > 3 > 0.1 > end[~is_bad].max()


def test_the_explanation_counts_what_came_before_and_names_what_follows(detector):
    seen, _ = planted(swapped)
    at = int(np.nanargmax(detector.step(seen).line))
    evidence = detector.explain(seen, at)
    assert "seen 400 times and never followed by it" in evidence.sentence
    assert evidence.expected[0] == (3, 1.0)


def test_hashed_keys_give_the_scores_of_mixed_radix_keys(learned, detector, monkeypatch):
    seen, _ = planted(swapped)
    expected = detector.step(seen)
    monkeypatch.setattr(ngram, "_keys", lambda rows, base: ngram.mix(np.zeros(len(rows)), *rows.T).view(np.int64))
    hashed = NgramParams().build(learned, NAMES).step(seen)
    np.testing.assert_array_equal(hashed.line, expected.line)
    np.testing.assert_array_equal(hashed.end, expected.end)


def test_without_a_session_a_line_is_judged_once_its_window_reaches_far_enough(detector):
    seen, _ = planted(swapped)
    score = detector.step(seen).line
    clock = np.flatnonzero(seen.key == CLOCK)
    assert np.isnan(score[clock[:2]]).all()
    assert not np.isnan(score[clock[2:]]).any()


def test_a_late_line_and_a_line_right_after_an_unknown_one_are_not_judged(detector):
    seen, _ = planted(new_text)
    unknown = np.flatnonzero(seen.code == 1)
    is_after = seen.windows[:, -1] == 1
    score = detector.step(seen).line
    assert is_after.sum() == len(unknown) == 4
    assert np.isnan(score[is_after]).all()
    assert not np.isnan(score[unknown]).any()
    late = replace(seen, is_late=np.ones(len(seen), np.bool_))
    assert np.isnan(detector.step(late).line).all()


def test_scores_are_those_of_witten_and_bell_written_out(learned, detector):
    grams = [tuple(row) for row in learned.arrays["grams"].tolist()]
    counts = learned.arrays["counts"].tolist()
    seen_times = [Counter() for _ in range(3)]
    for gram, count in zip(grams, counts, strict=True):
        for k in (1, 2, 3):
            seen_times[k - 1][gram[-k:]] += count

    def probability(gram):
        if not gram:
            return 1 / (len(NAMES) - 1)
        table = seen_times[len(gram) - 1]
        followed = {key: count for key, count in table.items() if key[:-1] == gram[:-1]}
        if not followed:
            return probability(gram[1:])
        total, kinds = sum(followed.values()), len(followed)
        return (table[gram] + kinds * probability(gram[1:])) / (total + kinds)

    seen, _ = planted(missing)
    score = detector.step(seen)
    rows = [*np.column_stack((seen.windows[:, -2:], seen.code)), *(np.append(w[-2:], END) for w in seen.ends.windows)]
    for row, found in zip(rows, [*score.line.tolist(), *score.end.tolist()], strict=True):
        gram = tuple(row.tolist())
        if not np.isnan(found):
            assert found == pytest.approx(-log10(probability(gram)) / (1 + seen_times[2][gram]), abs=2e-5)


def test_too_few_lines_are_refused_with_both_figures():
    with pytest.raises(DataSetError, match=r"\d+ lines .* at least 100000 are needed"):
        NgramParams(min_lines=100_000).learn(corpus(20))


def test_lessons_and_settings_that_cannot_be_are_refused(learned):
    with pytest.raises(SettingsError, match="n is 1"):
        NgramParams(n=1)
    with pytest.raises(ValueError, match="out of range"):
        NgramParams().build(learned, NAMES[:5])
    with pytest.raises(ValueError, match="shape"):
        NgramParams().build(Learned({"grams": np.zeros((0, 3)), "counts": np.zeros(0)}), NAMES)
