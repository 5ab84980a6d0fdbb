"""What the frequency detector alone promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detectors.contract import Corpus, Learned
from models.detectors.frequency import FrequencyParams
from models.detectors.rates import surprise
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import CLOCK, LENGTH, NAMES, SHOP, Line, batches, corpus, lines

PER_MINUTE = 10  # sessions
SESSIONS = 100 * PER_MINUTE
START = 1_700_000_000_000
MINUTE = 60_000
GAP_MS = MINUTE // PER_MINUTE


def from_minute(first, until):
    """The numbers of the sessions that begin in these minutes."""
    return range(first * PER_MINUTE, until * PER_MINUTE)


@pytest.fixture(scope="module")
def learned():
    made = lines(SESSIONS, gap_ms=GAP_MS)
    return FrequencyParams().learn(Corpus(batches(made, range(2_000, len(made), 2_000)), NAMES, LENGTH))


@pytest.fixture
def detector(learned):
    return FrequencyParams().build(learned, NAMES)


def planted(fault, faulty):
    return batches(lines(SESSIONS, seed=9, fault=fault, faulty=faulty, gap_ms=GAP_MS))[0]


def stormy(made, rng):
    """One step thirty times."""
    return [*made[:1], *[replace(made[1], ts=made[1].ts + at) for at in range(30)], *made[1:]]


def without_ledger(made, rng):
    """The ledger is silent."""
    return [one for one in made if one.code != 7]


def gone(made, rng):
    """The whole shop is silent."""
    return []


def fourfold(made, rng):
    """The price is computed four times over."""
    return [again for one in made for again in [one] * (4 if one.code == 4 else 1)]


def fewer_prices(made, rng):
    """The price is computed in one session of five."""
    return [one for one in made if one.code != 4 or rng.random() < 0.2]


def minute_of(seen):
    return (seen.ts - START) // MINUTE


def test_a_normal_day_scores_nothing(detector):
    assert detector.step(planted(None, ())).line.max() == 0


def test_a_spike_scores_its_template_and_grows_with_it(detector):
    seen = planted(stormy, from_minute(85, 90))
    score = detector.step(seen).line
    in_spike = (minute_of(seen) >= 85) & (minute_of(seen) < 90) & (seen.code == 3)
    assert (score[in_spike] > 0).mean() > 0.5
    assert score[(minute_of(seen) < 85) | (seen.code != 3)].max() == 0
    flagged = score[in_spike & (score > 0)]
    assert (np.diff(flagged) > 0).mean() > 0.9
    assert flagged.max() > 10
    sentence = detector.explain(seen, int(score.argmax())).sentence
    assert sentence.startswith("In the last ten minutes, “basket <id> loaded from the store in <num> ms” came ")


def test_a_template_that_falls_silent_is_told_once_at_the_first_line_that_shows_it(detector, learned):
    seen = planted(without_ledger, from_minute(60, 80))
    score = detector.step(seen).line
    (told,) = np.flatnonzero(score > 0).tolist()
    newest = seen.ts[: told + 1][seen.code[: told + 1] == 7].max()
    longest = learned.arrays["longest_ms"][7]
    assert 3 * longest <= seen.now[told] - newest < 4 * longest
    sentence = detector.explain(seen, told).sentence
    assert "there was no “order <id> written to the ledger in <num> ms”; the longest pause before was" in sentence


def test_a_service_that_falls_silent_is_told_at_its_next_line_and_by_no_other_service(detector):
    seen = planted(gone, from_minute(60, 80))
    score = detector.step(seen).line
    (told,) = np.flatnonzero(score > 0).tolist()
    assert seen.service[told] == SHOP
    assert minute_of(seen)[told] == 80
    assert detector.explain(seen, told).sentence.startswith("For 20.1 min its service sent nothing; the longest")


@pytest.mark.parametrize("fault", [fourfold, fewer_prices])
def test_a_new_level_is_told_once(fault, detector):
    seen = planted(fault, from_minute(40, 100))
    score = detector.step(seen).line
    (told,) = np.flatnonzero(score > 0).tolist()
    assert seen.code[told] == 4
    assert 65 <= minute_of(seen)[told] <= 71  # the half hour before must differ from its first ten minutes on
    assert "times, a new level: 300.2 times were usual." in detector.explain(seen, told).sentence


def test_a_spike_is_judged_by_the_learned_rate_until_an_hour_was_seen(detector, learned):
    early = planted(stormy, from_minute(5, 10))
    assert detector.step(early).line.max() > 10
    # Another service under the same model, ten times as busy: too much by what was learned, normal by its own hour.
    busy = Learned({**learned.arrays, "per_minute": learned.arrays["per_minute"] / 10}, learned.facts)
    seen = planted(None, ())
    score = FrequencyParams(level_ratio=1e5).build(busy, NAMES).step(seen).line
    assert score[(minute_of(seen) < 69) & (score > 0)].size > 100
    assert score[minute_of(seen) > 70].max() == 0


def test_late_lines_change_nothing(detector, learned):
    seen = planted(stormy, from_minute(85, 87))
    late = replace(seen, is_late=np.arange(len(seen)) % 3 == 0)
    on_time = np.flatnonzero(~late.is_late)
    scores = detector.step(late).line
    assert np.isnan(scores[late.is_late]).all()
    other = FrequencyParams().build(learned, NAMES)
    np.testing.assert_array_equal(scores[on_time], other.step(late.take(on_time)).line)
    assert detector.to_bytes() == other.to_bytes()


class Naive:
    """The detector as a loop over lines."""

    def __init__(self, params, rates):
        self.params, self.rates = params, rates
        self.lines, self.since, self.last, self.longest, self.level, self.time = {}, {}, {}, {}, {}, {}

    def score(self, service, code, now):
        minute, before = now // MINUTE, self.time.get(service)
        self.time[service] = now
        self.since.setdefault(service, minute)
        best = 0.0
        for other in (0, *range(1, len(NAMES))):  # silences that this line shows
            pair = (service, other)
            if pair in self.last and self.rates["longest_ms"][other]:
                due = self.last[pair] + max(int(self.longest[pair] * self.params.silence_ratio), MINUTE)
                if before <= due < now:
                    best = max(best, (now - self.last[pair]) * self.rates["per_minute"][other] / MINUTE / np.log(10))
        for other in (0, code):
            pair = (service, other)
            self.longest.setdefault(pair, int(self.rates["longest_ms"][other]))
            self.longest[pair] = max(self.longest[pair], now - self.last.get(pair, now))
            self.last[pair] = now
        seen = self.lines.setdefault((service, code), Counter())
        seen[minute] += 1

        def between(low, high):
            return sum(seen[minute - back] for back in range(low, high))

        spread, rate = self.rates["dispersion"][code : code + 1], self.rates["per_minute"][code]
        age = minute - self.since[service]
        usual = max(between(10, 70) / 6 if age >= 70 else rate * 10, 1 / 12)
        present = between(0, 10)
        if present > self.params.ratio * usual and present > self.params.min_per_minute * 10:
            best = max(best, surprise(np.array([present]), np.array([usual]), spread)[0])
        if age > 30 and rate > 0:
            thirds = [between(1, 11), between(11, 21), between(21, 31)]
            usual = max(self.level.get((service, code), rate * 30), 1 / 4)
            ratio, tenth = self.params.level_ratio, usual / 3
            if all(third > ratio * tenth for third in thirds) or all(third * ratio < tenth for third in thirds):
                digits = surprise(np.array([sum(thirds)]), np.array([usual]), spread)[0]
                if digits >= 3:
                    best = max(best, digits)
                    self.level[service, code] = sum(thirds)
        return best


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((1, 7, 40, 200)), st.sampled_from((3_000, 30_000, 240_000)))
def test_scores_are_those_of_a_loop_over_lines_at_any_cut(seed, cut, pace_ms):
    rng = np.random.default_rng(seed)
    params = FrequencyParams(ratio=1.5, min_per_minute=0.2, silence_ratio=1.5, level_ratio=1.2)
    rates = {
        "per_minute": rng.choice((0.0, 0.5, 5.0), len(NAMES)),
        "dispersion": rng.uniform(0.05, 1, len(NAMES)),
        "longest_ms": rng.choice((0, 1_000, 90_000), len(NAMES)),
    }
    made, now = [], START
    for _ in range(200):
        now += int(rng.exponential(pace_ms)) * int(rng.choice((0, 1, 30), p=(0.3, 0.68, 0.02)))
        service = CLOCK if rng.random() < 0.3 else SHOP
        made.append(Line(int(rng.integers(1, 5)), now - int(rng.integers(0, 2_000)), 7, int(service), 1.0))
    naive, detector = Naive(params, rates), params.build(Learned(rates, {}), NAMES)
    for seen in batches(made, range(cut, len(made), cut)):
        columns = (seen.service.tolist(), seen.code.tolist(), seen.now.tolist(), seen.is_late.tolist())
        expected = [
            np.nan if is_late else naive.score(service, code, now)
            for service, code, now, is_late in zip(*columns, strict=True)
        ]
        score = detector.step(seen).line
        detector.check()
        np.testing.assert_allclose(score, np.array(expected), atol=2e-5, rtol=1e-6)


def test_counts_of_a_minute_stop_at_their_bound_at_any_cut(learned):
    size = 70_000
    one = batches([Line(3, START, 1, int(SHOP), 1.0)])[0]
    whole = one.take(np.zeros(size, np.int64))
    params = FrequencyParams()
    expected = params.build(learned, NAMES).step(whole).line
    detector = params.build(learned, NAMES)
    parts = [detector.step(whole.take(np.arange(low, low + 35_000))).line for low in (0, 35_000)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert expected[65_534] == expected[-1] > expected[65_000]
    detector.check()


def test_state_stays_within_its_bound_and_drops_a_service(learned):
    detector = FrequencyParams(max_rows=40).build(learned, NAMES)
    for number, seen in enumerate(batches(lines(200, seed=4), range(100, 1_100, 100))):
        detector.step(replace(seen, service=seen.service + np.uint64(number)))  # new services all the time
        detector.check()
    full = len(detector.to_bytes())
    detector.drop(int(SHOP) + number)
    detector.check()
    assert 40 * 200 > full > full - 8 * 188 >= len(detector.to_bytes()) > 10 * 188


def test_dispersion_and_steadiness_are_learned_from_the_corpus():
    rng = np.random.default_rng(1)
    made = [Line(2, START + 10_000 * at, 1, int(CLOCK), 1.0) for at in range(3_600)]  # steady, ten hours
    made += [Line(3, START + int(at), 1, int(CLOCK), 1.0) for at in rng.uniform(0, 36_000_000, 3_600)]  # Poisson
    made += [Line(4, START + 3_600_000 * (at // 360) + at, 1, int(CLOCK), 1.0) for at in range(3_600)]  # bursts
    made.sort(key=lambda one: one.ts)
    found = FrequencyParams().learn(Corpus(batches(made), NAMES, LENGTH)).arrays
    assert found["per_minute"][2:5] == pytest.approx([6, 6, 6], rel=0.01)
    assert found["dispersion"][2] == found["dispersion"][3] == 0.05 < 3 < found["dispersion"][4]
    assert found["longest_ms"][2] == 10_000 < found["longest_ms"][3] < 200_000
    assert found["longest_ms"][4] == 0


def test_too_short_a_corpus_teaches_nothing_and_settings_are_checked(learned):
    with pytest.raises(DataSetError, match=r"2\.\d minutes of lines; at least 3"):
        FrequencyParams().learn(corpus(200))
    for wrong in ({"ratio": 1}, {"silence_ratio": 0}, {"level_ratio": 1}, {"min_per_minute": -1}, {"max_rows": 1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            FrequencyParams(**wrong)
    with pytest.raises(ValueError, match="do not fit"):
        FrequencyParams().build(learned, NAMES[:4])
    with pytest.raises(ValueError, match="out of range"):
        FrequencyParams().build(Learned({**learned.arrays, "dispersion": learned.arrays["dispersion"] * 0}), NAMES)
