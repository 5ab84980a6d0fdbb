"""What the count detector alone promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.detectors.contract import Corpus, Learned
from models.detectors.count import CountParams
from models.detectors.tally import SLOTS, Tally
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import (
    LENGTH,
    NAMES,
    SHOP,
    Line,
    batches,
    corpus,
    is_faulty,
    lines,
    missing,
    new_text,
    repeated,
    stopped,
)

FAULTY = (5, 20, 33, 47)
GAP_MS = 60_000


@pytest.fixture(scope="module")
def learned():
    return CountParams().learn(corpus())


@pytest.fixture
def detector(learned):
    return CountParams().build(learned, NAMES)


def planted(fault):
    seen = batches(lines(80, seed=9, fault=fault, faulty=FAULTY))[0]
    return seen, is_faulty(seen, FAULTY), np.isin(seen.ends.key, [1_000 + number for number in FAULTY])


def line(code, second, key=1):
    return Line(code, 1_700_000_000_000 + int(second * 1_000), 1_000 + key, int(SHOP), 1.0)


@pytest.mark.parametrize(("fault", "least_share"), [(new_text, 1.0), (repeated, 0.94)])
def test_a_line_too_many_scores_above_normal_lines_but_those_of_rare_paths(fault, least_share, detector):
    seen, is_bad, _ = planted(fault)
    score = detector.step(seen).line
    worst = [score[seen.key == 1_000 + number].max() for number in FAULTY]
    normal = score[~is_bad & seen.has_session]
    assert (normal < min(worst)).mean() >= least_share
    assert normal[np.isin(seen.code[~is_bad & seen.has_session], (2, 3, 4, 8))].max() == 0


def test_within_its_limit_a_line_scores_how_rare_the_sessions_with_its_template_are(detector):
    seen, is_bad, _ = planted(repeated)
    score = detector.step(seen).line
    of_every_session, of_one_in_four = (score[~is_bad & (seen.code == code)] for code in (3, 6))
    assert of_every_session.max() == 0
    assert of_one_in_four == pytest.approx(np.log10(4), abs=0.1)
    assert score[is_bad & (seen.code == 3)].max() == pytest.approx(np.log10(401) + np.log2(9 / 3), abs=1e-4)


@pytest.mark.parametrize("fault", [missing, stopped, repeated, new_text])
def test_a_session_that_ends_with_other_counts_is_told_from_every_normal_one(fault, detector):
    seen, _, is_bad = planted(fault)
    end = detector.step(seen).end
    assert is_bad.sum() == len(FAULTY)
    assert end[is_bad].min() >= 1
    assert end[~is_bad].max() == 0


def test_an_unknown_template_scores_by_the_inverse_document_frequency_of_one_never_seen(learned, detector):
    seen, _, _ = planted(new_text)
    score = detector.step(seen).line
    weight = np.log(1 + learned.facts["sessions"]) + 1
    assert score[seen.code == 1] == pytest.approx(weight + (weight - 1) / np.log(10), abs=1e-4)


def test_explanations_name_the_count_and_the_normal_one(detector):
    seen, _, is_bad = planted(repeated)
    scores = detector.step(seen)
    sentence = detector.explain(seen, int(np.nanargmax(scores.line))).sentence
    assert "basket <id> loaded from the store" in sentence
    assert "times so far; of the 400 learned with it, nearly all have it at most 2 times." in sentence
    ended = detector.explain(seen, int(np.flatnonzero(is_bad)[0]), is_end=True).sentence
    assert "basket <id> loaded from the store in <num> ms” 7 times instead of" in ended
    normal = detector.explain(seen, int(np.flatnonzero(~is_bad)[0]), is_end=True).sentence
    assert normal.startswith("The session ended with the counts of")


def test_a_vector_learned_once_scores_between_a_common_one_and_a_new_one():
    made = [session_line for key in range(60) for session_line in (line(2, key, key), line(8, key + 0.1, key))]
    made += [line(2, 61, 70), line(3, 61.1, 70), line(8, 61.2, 70), line(9, 100, 99)]
    detector = CountParams().build(CountParams().learn(Corpus(batches(made), NAMES, LENGTH)), NAMES)
    again = [
        line(2, 1, 1),
        line(8, 1.1, 1),
        line(2, 2, 2),
        line(3, 2.1, 2),
        line(8, 2.2, 2),
        line(2, 3, 3),
        line(9, 99, 9),
    ]
    seen = batches(again)[0]
    score = dict(zip(seen.ends.key.tolist(), detector.step(seen).end.tolist(), strict=True))
    assert score[1_001] == 0 < score[1_002] < score[1_003]


def test_an_end_scores_the_least_distance_to_any_vector_learned():
    rng = np.random.default_rng(3)
    vectors, sessions = rng.integers(0, 6, (300, 8)) * rng.integers(0, 2, (300, 8)), rng.integers(1, 4, 300)
    vectors[:, 0] += 1
    which, code = np.nonzero(vectors)
    arrays = {
        "holders": np.stack((np.append((0, 0), rng.integers(1, 500, 8)), np.zeros(10, int))),
        "limit": np.full((2, 10), 9),
        "vector_start": np.append(0, np.cumsum(np.bincount(which))),
        "vector_code": code + 2,
        "vector_count": vectors[which, code],
        "vector_seen": sessions,
    }
    detector = CountParams().build(Learned(arrays, {"sessions": 500, "minutes": 0}), NAMES)
    asked = np.concatenate((vectors[:20], rng.integers(0, 9, (60, 8))))
    made = [
        line(code + 2, 10 * key + at / 100, key)
        for key, counts in enumerate(asked)
        for at, code in enumerate(np.repeat(np.arange(8), counts))
    ]
    seen = batches([*made, line(9, 5_000, 999)])[0]
    weight = np.log(501 / (1 + arrays["holders"][0, 2:])) + 1
    gap = np.abs(np.log2((1 + asked[:, None, :]) / (1 + vectors[None])))  # [asked, vectors, classes]
    expected = ((gap * weight).sum(axis=2) + np.where(sessions > 1, 0, 0.5)).min(axis=1)
    order = (seen.ends.key - np.uint64(1_000)).astype(int)
    np.testing.assert_allclose(detector.step(seen).end, expected[order], atol=1e-4)
    assert (expected[:20] <= 0.5).all()
    assert expected.max() > 5


def test_lines_without_session_count_by_minute_of_their_service(learned):
    clock = [tick for tick in lines(4_000, seed=3) if tick.code == 9]
    params = CountParams()
    detector = params.build(params.learn(Corpus(batches(clock), NAMES, LENGTH)), NAMES)
    storm = sorted(
        clock + [replace(clock[100], ts=clock[100].ts + at) for at in range(1, 20)], key=lambda tick: tick.ts
    )
    seen = batches(storm)[0]
    score = detector.step(seen).line
    in_minute = seen.ts // 60_000 == clock[100].ts // 60_000
    assert score[in_minute].max() > 1
    assert score[~in_minute].max() == 0
    assert "In this minute of its service, “the scheduler" in detector.explain(seen, int(score.argmax())).sentence


def test_a_session_that_began_before_it_was_counted_is_not_judged_by_its_end(learned):
    """A model that replaces another meets open sessions in the middle: half their counts say nothing."""
    first, *later = batches(lines(80, seed=9), cuts=range(203, 500, 40))
    fresh = CountParams().build(learned, NAMES)
    judged, is_old = [], []
    for seen in later:
        judged += fresh.step(seen).end.tolist()
        is_old += np.isin(seen.ends.key, first.key).tolist()
    judged, is_old = np.array(judged), np.array(is_old)
    assert 0 < is_old.sum() < len(is_old)
    assert np.isnan(judged[is_old]).all()
    assert (judged[~is_old] == 0).all()
    fresh.check()


def test_a_kind_of_unit_that_was_hardly_learned_is_not_judged(detector):
    seen, _, _ = planted(missing)
    score = detector.step(seen).line
    assert np.isnan(score[~seen.has_session]).all()
    assert not np.isnan(score[seen.has_session]).any()


def test_late_lines_change_nothing(detector, learned):
    seen, _, _ = planted(missing)
    late = replace(seen, is_late=np.arange(len(seen)) % 3 == 0)
    on_time = np.flatnonzero(~late.is_late)
    scores = detector.step(late)
    assert np.isnan(scores.line[late.is_late]).all()
    other = CountParams().build(learned, NAMES)
    np.testing.assert_array_equal(scores.line[on_time], other.step(late.take(on_time)).line)
    assert detector.to_bytes() == other.to_bytes()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(0, 3), st.sampled_from((0, 0, 1, 4, 9, 70)), st.sampled_from((0, 0, -3, -20))
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 40),
)
def test_counts_are_those_of_a_loop_over_lines_at_any_cut(drawn, cut):
    """Sessions that pause, end, go on (even with older lines) and are forgotten."""
    # An end inside a long run of one class without newer time is the one case that may be a line off (tally.py).
    assume(max(Counter((code, key) for code, key, _, _ in drawn).values()) <= LENGTH)
    made, second = [], 100.0
    for code, key, pause, back in drawn:
        second += pause
        made.append(line(1 + code, second + back, key))
    tally = Tally(GAP_MS, 1_000)
    expected: dict[int, Counter[int]] = {}
    touched: dict[int, int] = {}
    whole = batches(made)[0]
    naive = []
    for key, code, now, is_late in zip(whole.key, whole.code, whole.now, whole.is_late, strict=True):
        if not is_late:
            if key not in touched or now - touched[key] > GAP_MS:
                expected[key] = Counter()
            touched[key] = now
            expected[key][code] += 1
        naive.append(0 if is_late else expected[key][code])
    counted = [tally.step(part) for part in batches(made, range(cut, len(made), cut))]
    tally.check()
    assert np.concatenate([part.count for part in counted]).tolist() == naive

    def ends(parts, counts):
        return sorted(
            (int(key), int(ts), *map(tuple, np.concatenate(count.ends[at]).reshape(2, -1).tolist()))
            for part, count in zip(parts, counts, strict=True)
            for at, (key, ts) in enumerate(zip(part.ends.key, part.ends.ts, strict=True))
        )

    by_one = batches(made, range(1, len(made)))
    alone = Tally(GAP_MS, 1_000)
    assert ends(batches(made, range(cut, len(made), cut)), counted) == ends(by_one, [alone.step(one) for one in by_one])


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_session_with_more_classes_than_slots_counts_the_first_ones(cut):
    made = [line(code, code, 1) for code in range(2, 2 + SLOTS + 4)] * 2
    names = [f"template {code}" for code in range(40)]
    seen = batches([replace(one, text=names[one.code]) for one in made], range(cut, len(made), cut))
    tally = Tally(10 * GAP_MS, 10)
    count = np.concatenate([tally.step(part).count for part in seen])
    assert count.tolist() == [1] * (SLOTS + 4) + [2] * SLOTS + [1] * 4
    tally.check()


def test_state_stays_within_its_bound_and_drops_a_service(learned):
    detector = CountParams(max_rows=40).build(learned, NAMES)
    for seen in batches(lines(200, seed=4), range(50, 3_000, 50)):
        detector.step(seen)
        detector.check()
    full = len(detector.to_bytes())
    detector.drop(int(SHOP))
    detector.check()
    assert full > 30 * 128 > 2 * 128 > len(detector.to_bytes())


def test_too_few_sessions_teach_nothing_and_settings_are_checked(learned):
    with pytest.raises(DataSetError, match=r"7 sessions and 1 minutes.*at least 20"):
        CountParams().learn(corpus(7))
    for wrong in ({"session_gap_ms": 0}, {"quantile": 0.2}, {"max_vectors": 0}, {"max_rows": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            CountParams(**wrong)
    with pytest.raises(ValueError, match="do not fit"):
        CountParams().build(learned, NAMES[:4])
    arrays = {**learned.arrays, "vector_seen": learned.arrays["vector_seen"][1:]}
    with pytest.raises(ValueError, match="vectors"):
        CountParams().build(Learned(arrays, learned.facts), NAMES)
