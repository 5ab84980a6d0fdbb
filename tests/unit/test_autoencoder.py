"""What the autoencoder detector and the rooms below it promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.detectors.autoencoder import AutoencoderParams
from models.detectors.contract import Learned
from models.detectors.rolling import Rolling, RollingParams
from models.detectors.text_codes import MAX_TOKENS, TextCodes, fit_codes, vocabulary, words_of
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import (
    CLOCK,
    NAMES,
    SHOP,
    UNKNOWN_TEXT,
    batches,
    corpus,
    is_faulty,
    lines,
    new_text,
    swapped,
)

FAULTY = (5, 20, 33, 47)
SMALL = AutoencoderParams(hidden=32, code=16, next_steps=250)


@pytest.fixture(scope="module")
def learned():
    return SMALL.learn(corpus(), seed=1)


@pytest.fixture
def detector(learned):
    return SMALL.build(learned, NAMES)


def planted(fault):
    seen = batches(lines(80, seed=9, fault=fault, faulty=FAULTY))[0]
    return seen, is_faulty(seen, FAULTY)


@pytest.mark.parametrize("fault", [new_text, swapped])
def test_a_strange_text_and_a_strange_order_score_above_every_normal_line(fault, detector):
    seen, is_bad = planted(fault)
    score = detector.step(seen).line
    worst = [np.nanmax(score[seen.key == 1_000 + number]) for number in FAULTY]
    assert min(worst) > 2 * np.nanmax(score[~is_bad])


def test_the_explanation_names_what_was_expected_and_the_words_that_are_new(detector):
    seen, _ = planted(new_text)
    score = detector.step(seen).line
    at = int(np.flatnonzero(seen.code == 1)[0])
    assert score[at] > 10
    evidence = detector.explain(seen, at)
    assert "spreads from what the lines before let expect" in evidence.sentence
    assert "never seen" in evidence.sentence
    assert evidence.nearest in NAMES[2:]
    assert "kernel" in evidence.differing


def test_without_a_full_window_or_a_session_only_an_unknown_text_is_judged(detector):
    seen, _ = planted(new_text)
    late = replace(seen, is_late=np.ones(len(seen), np.bool_))
    score = detector.step(late).line
    np.testing.assert_array_equal(np.isnan(score), seen.code != 1)
    assert detector.explain(late, 0).sentence == "There is nothing to judge it by."
    clock = np.flatnonzero(seen.key == CLOCK)[:3]
    assert np.isnan(detector.step(seen).line[clock]).all()
    assert detector.to_bytes()


def test_dropping_what_is_remembered_changes_no_score(learned, detector):
    seen, _ = planted(new_text)
    expected = detector.step(seen).line
    for size in (1, 13):
        fresh = SMALL.build(learned, NAMES)
        fresh._codes._memo_texts = size
        fresh._scores._entries = size
        np.testing.assert_array_equal(fresh.step(seen).line, expected)


def test_too_few_lines_are_refused_with_both_figures_and_settings_are_checked():
    with pytest.raises(DataSetError, match=r"\d+ lines .* at least 100000 are needed"):
        AutoencoderParams(min_lines=100_000).learn(corpus(20))
    with pytest.raises(SettingsError, match="code is 0"):
        AutoencoderParams(code=0)


@pytest.mark.parametrize("broken", ["text.head.bias", "next.head.bias", "text.narrow.weight"])
def test_weights_that_do_not_fit_together_are_refused(broken, learned):
    arrays = {**learned.arrays, broken: np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="do not fit"):
        SMALL.build(Learned(arrays, learned.facts), NAMES)


# ---- texts


def test_a_text_has_one_code_whatever_is_encoded_beside_it(detector):
    texts = [*NAMES[2:], UNKNOWN_TEXT, "", "word " * 100]
    codes = detector._codes
    together = codes.encode(texts)
    for at, text in enumerate(texts):
        np.testing.assert_array_equal(codes.encode([text])[0], together[at])
    assert np.isfinite(together).all()


def test_words_seen_before_are_rebuilt_and_strange_ones_are_not(detector):
    _, nats = detector._codes.rebuild([NAMES[3], UNKNOWN_TEXT])
    assert nats[0] < 0.3 < 2 < nats[1]


def test_only_the_first_words_of_a_text_count_and_the_vocabulary_is_bounded():
    assert len(words_of("word " * 100)) == MAX_TOKENS
    assert vocabulary(["b a", "b c", "b"], most=2) == ["b", "a"]


def test_a_code_tells_texts_apart_that_it_was_taught(learned):
    texts = ["the door opens", "the door shuts", "a cat sleeps"]
    words = vocabulary(texts, 100)
    told = []
    weights = fit_codes(
        texts, words, hidden=16, code=4, max_steps=100, seed=1, report=lambda done, loss: told.append((done, loss))
    )
    codes = TextCodes(words, weights).encode(texts)
    assert np.abs(codes[:, None] - codes[None]).max(axis=2)[~np.eye(3, dtype=bool)].min() > 0.1
    assert told[-1][1] < told[0][1] / 3


# ---- the rolling mean


PARAMS = RollingParams(mean=1.0, deviation=0.5, most=3.0, prior_lines=100, half_life_min=60, max_services=10)


def minutes(*errors, service=7):
    """One line a minute with these errors."""
    count = len(errors)
    return (
        np.full(count, service, np.uint64),
        np.arange(count, dtype=np.int64) * 60_000,
        np.array(errors, np.float32),
    )


def test_the_first_line_of_a_service_is_judged_by_what_was_learned():
    mean, deviation = Rolling(PARAMS).step(*minutes(2.0))
    assert (mean[0], deviation[0]) == (1.0, 0.5)


def test_the_mean_follows_a_service_and_forgets_by_half_lives():
    rolling = Rolling(PARAMS)
    rolling.step(np.full(300, 7, np.uint64), np.zeros(300, np.int64), np.full(300, 2.0, np.float32))
    later = np.array([60_000, 61 * 60_000], np.int64)
    mean, _ = rolling.step(np.full(2, 7, np.uint64), later, np.full(2, 2.0, np.float32))
    weight = 300 * 0.5 ** (np.array([1, 61]) / 60)
    assert mean[0] == pytest.approx((100 + 2 * weight[0]) / (100 + weight[0]))
    assert mean[1] == pytest.approx((100 + 2 * weight[1]) / (100 + weight[1]), abs=0.01)


def test_an_anomaly_counts_as_the_most_that_is_normal_and_never_in_its_own_minute():
    wild, tame = Rolling(PARAMS), Rolling(PARAMS)
    first = wild.step(*minutes(1000.0, 1.0))
    np.testing.assert_array_equal(first, tame.step(*minutes(3.0, 1.0)))
    assert first[0][0] == 1.0 < first[0][1] < 1.1


def test_services_do_not_share_their_errors_and_a_dropped_one_starts_anew():
    rolling = Rolling(PARAMS)
    rolling.step(*minutes(*[3.0] * 200))
    assert rolling.step(*minutes(1.0, service=8))[0][0] == 1.0
    now = np.array([201 * 60_000], np.int64)
    assert rolling.step(np.array([7], np.uint64), now, np.ones(1, np.float32))[0][0] > 1.5
    rolling.drop(7)
    assert rolling.step(np.array([7], np.uint64), now, np.ones(1, np.float32))[0][0] == 1.0
    rolling.rows.check()


def test_the_figures_do_not_depend_on_the_cut_into_batches():
    rng = np.random.default_rng(3)
    service = rng.integers(1, 4, 500).astype(np.uint64)
    now = np.sort(rng.integers(0, 40 * 60_000, 500))
    error = rng.gamma(2, 1, 500).astype(np.float32).round(5)
    whole = Rolling(PARAMS).step(service, now, error)
    for size in (1, 7, 100):
        rolling = Rolling(PARAMS)
        parts = [
            rolling.step(service[at : at + size], now[at : at + size], error[at : at + size])
            for at in range(0, 500, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_a_service_is_dropped_from_the_detector(detector):
    detector.step(planted(swapped)[0])
    before = len(detector.to_bytes())
    detector.drop(int(SHOP))
    assert len(detector.to_bytes()) < before
    detector.check()
