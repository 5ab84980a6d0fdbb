"""The scorer against the network itself, its promise of equal answers for any cut, and what the detector makes of it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.deeplog import PADDING, UNKNOWN, DeepLog, DeepLogScorer
from models.detectors.contract import Corpus, Ends
from models.detectors.deeplog import DeepLogParams, _top_g, examples
from models.errors import DataSetError, SettingsError
from models.fitting import Examples
from tests.unit.detector_cases import END as LAST
from tests.unit.detector_cases import LENGTH, NAMES, batches, corpus, lines, stopped, swapped
from tests.unit.shop_model import QUICK_FIT

CLASSES = 20
END = CLASSES - 1


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = DeepLog(CLASSES, hidden=16).eval()
    for weights in made.parameters():
        weights.data *= 6  # far from uniform, as after training
    return made


@pytest.fixture(scope="module")
def scorer(network):
    return DeepLogScorer(network.state_dict(), chunk=16)


def draw(count, seed=0):
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, CLASSES - 1, (count, 5)).astype(np.int32)
    return windows, rng.integers(1, CLASSES, count).astype(np.int32)


def test_the_scorer_computes_what_the_network_computes(network, scorer):
    windows, _ = draw(50)
    with torch.no_grad():
        logits = network(torch.from_numpy(windows).long())
    logits[:, :2] = -torch.inf
    expected = torch.softmax(logits, 1).numpy()
    assert np.abs(scorer.probabilities(windows) - expected).max() < 1.1e-5


def test_an_embedded_vocabulary_scores_as_the_network_does():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DeepLog(300, hidden=8, layers=3).eval()
    windows = np.random.default_rng(0).integers(0, 300, (20, 4)).astype(np.int32)
    with torch.no_grad():
        logits = network(torch.from_numpy(windows).long())
    logits[:, :2] = -torch.inf
    difference = DeepLogScorer(network.state_dict()).probabilities(windows) - torch.softmax(logits, 1).numpy()
    assert np.abs(difference).max() < 1.1e-5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 199), max_size=8), st.randoms(use_true_random=False), st.booleans(), st.integers(4, 64))
def test_any_order_any_cut_and_a_dropped_memo_give_bit_equal_scores(network, cuts, chance, drops, entries):
    windows, following = draw(200)
    expected = DeepLogScorer(network.state_dict(), chunk=16).score(windows, following)
    order = list(range(200))
    chance.shuffle(order)
    cut = DeepLogScorer(network.state_dict(), chunk=16, memo_entries=entries)
    probability, rank = np.empty(200, np.float32), np.empty(200, np.int32)
    for part in np.split(np.array(order), sorted(cuts)):
        if len(part):
            probability[part], rank[part] = cut.score(windows[part], following[part])
        if drops:
            cut.drop_memo()
    assert np.array_equal(probability, expected[0])
    assert np.array_equal(rank, expected[1])


def test_two_threads_score_as_one_does(scorer):
    windows, following = draw(300, seed=5)
    expected = scorer.score(windows, following)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scorer.drop_memo()
        found = scorer.score(windows, following)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_the_rank_counts_likelier_templates_and_breaks_ties_by_class(scorer):
    windows, _ = draw(30, seed=1)
    likely = scorer.probabilities(windows)
    for following in range(2, END):
        probability, rank = scorer.score(windows, np.full(30, following, np.int32))
        assert np.array_equal(probability, likely[:, following])
        for row in range(30):
            order = sorted(range(2, END), key=lambda code, row=row: (-likely[row, code], code))
            assert order.index(following) == rank[row]


def test_unknown_and_padding_are_never_expected(scorer):
    windows, _ = draw(10)
    for code in (PADDING, UNKNOWN):
        probability, rank = scorer.score(windows, np.full(10, code, np.int32))
        assert (probability == 0).all()
        assert (rank == CLASSES).all()
    expected = scorer.expected(windows[0], 100)
    assert [code for code, _ in expected if not 2 <= code < END] == []
    assert [p for _, p in expected] == sorted((p for _, p in expected), reverse=True)


def test_the_end_of_a_session_is_scored_as_a_class_of_its_own(scorer):
    windows, _ = draw(10)
    assert np.array_equal(scorer.end_probability(windows), scorer.probabilities(windows)[:, END])


def test_known_windows_cost_next_to_nothing(network):
    scorer = DeepLogScorer(network.state_dict())
    windows, following = draw(2_000, seed=2)
    scorer.score(windows, following)
    lines = np.random.default_rng(0).integers(0, 2_000, 10_000)
    windows, following = windows[lines], following[lines]
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        scorer.score(windows, following)
        best = min(best, time.perf_counter() - start)
    # 0.08 µs a line on an idle core; the bound leaves room for a loaded machine.
    assert best / 10_000 < 1e-6


def test_an_empty_batch_is_scored(scorer):
    probability, rank = scorer.score(np.zeros((0, 5), np.int32), np.zeros(0, np.int32))
    assert len(probability) == len(rank) == 0


# -- the detector ----------------------------------------------------------------------------------------------------

PARAMS = DeepLogParams(fit=replace(QUICK_FIT, min_steps=200, max_steps=200))


@pytest.fixture(scope="module")
def learned():
    return PARAMS.learn(corpus(200), seed=1)


@pytest.fixture
def detector(learned):
    return PARAMS.build(learned, NAMES)


def test_the_score_is_how_unlikely_a_line_is_and_one_more_outside_the_top_g(detector):
    (seen,) = batches(lines(40, seed=5))
    scores = detector.step(seen).line
    probability, rank = detector.scorer.score(seen.windows, seen.code)
    assert not np.isnan(scores).all()
    for at in np.flatnonzero(~np.isnan(scores)).tolist():
        expected = -np.log10(max(probability[at], 1e-5)) + (rank[at] >= detector.top_g)
        assert scores[at] == pytest.approx(expected, abs=1e-4)
    assert detector.top_g > 1  # after some steps several may follow


def test_a_step_out_of_order_and_a_session_that_stops_score_above_normal_ones(detector):
    def highest(*fault):
        (seen,) = batches(lines(60, 5, *fault))
        scores = detector.step(seen)
        return np.nanmax(scores.line), np.nanmax(scores.end)

    line, end = highest()
    assert highest(swapped, (20,))[0] > line + 1
    assert highest(stopped, (20,))[1] > end + 1


def test_an_unknown_template_is_as_odd_as_can_be_and_late_lines_and_a_service_not_yet_known_are_left_out(detector):
    (seen,) = batches(lines(100, seed=5))
    judged = ~np.isnan(detector.step(seen).line)
    of_service = np.flatnonzero(~seen.has_session)
    assert not judged[of_service[:LENGTH]].any()
    assert judged[of_service[LENGTH:]].all()
    assert judged[seen.has_session].all()
    assert (seen.windows[seen.has_session][:, 0] == PADDING).any()  # a session has a beginning
    some = np.arange(len(seen)) % 7 == 0
    late = detector.step(replace(seen, is_late=some)).line
    assert np.isnan(late[some]).all()
    assert np.array_equal(~np.isnan(late[~some]), judged[~some])
    unknown = detector.step(replace(seen, code=np.where(some, UNKNOWN, seen.code))).line
    assert (unknown[some] == 6).all()  # a probability of 1e-5 at most, and outside the top g
    assert np.array_equal(~np.isnan(unknown[~some]), judged[~some])


def test_the_end_of_a_session_is_judged_where_its_last_line_is_known(detector):
    (seen,) = batches(lines(100, seed=5))
    ends = seen.ends
    assert len(ends) > 50
    assert not np.isnan(detector.step(seen).end).any()
    windows = ends.windows.copy()
    windows[::2, -1] = UNKNOWN
    judged = ~np.isnan(detector.step(replace(seen, ends=Ends(windows, ends.key, ends.ts))).end)
    assert judged.tolist() == [at % 2 == 1 for at in range(len(ends))]


def test_a_person_is_told_what_was_expected(detector):
    (seen,) = batches(lines(60, 5, swapped, (20,)))
    at = int(np.nanargmax(detector.step(seen).line))
    evidence = detector.explain(seen, at)
    code, share = evidence.expected[0]
    assert share == max(likely for _, likely in evidence.expected)
    assert 2 <= code < LAST
    assert f"«{NAMES[code]}» ({share:.1%})" in evidence.sentence
    assert f"«{NAMES[seen.code[at]]}» came instead" in evidence.sentence
    (seen,) = batches(lines(60, 5, stopped, (20,)))
    at = int(np.nanargmax(detector.step(seen).end))
    last = NAMES[seen.ends.windows[at, -1]]
    assert detector.explain(seen, at, is_end=True).sentence.startswith(f"The session stopped after «{last}»;")


def test_what_is_held_out_is_counted_apart_and_so_are_its_ends_in_any_batch():
    whole, cut = (batches(lines(50, seed=5), cuts) for cuts in ((), range(3, 400, 3)))
    keys = np.unique(whole[0].key[whole[0].has_session])
    held = keys[-20:]
    for seen in (whole, cut):
        data = examples(Corpus(seen, NAMES, LENGTH, np.concatenate([np.isin(part.key, held) for part in seen])))
        of_held = sum(int(np.isin(part.key, held).sum()) for part in seen)
        ends_of_held = sum(int(np.isin(part.ends.key, held).sum()) for part in seen)
        is_end = data.rows[:, -1] == data.end
        assert ends_of_held > 5
        assert data.held_count[~is_end].sum() == of_held
        assert data.held_count[is_end].sum() == ends_of_held
        assert data.fit_count.sum() + data.held_count.sum() == sum(len(part) + len(part.ends) for part in seen)


class Ranked:
    """A scorer that knows the rank of each row by its only window class."""

    classes = 12

    def __init__(self, ranks):
        self.ranks = np.array(ranks, np.int32)

    def score(self, windows, following):
        rank = self.ranks[windows[:, 0]]
        return np.zeros(len(rank), np.float32), rank


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30),
    st.sampled_from([0.001, 0.1, 0.3]),
)
def test_no_more_than_the_alarm_rate_lies_outside_the_smallest_top_g(rows, rate):
    rank, fit, held = np.array(rows).T
    data = Examples(np.column_stack((np.arange(len(rows)), np.full(len(rows), 3))).astype(np.int32), fit, held, end=11)
    top_g = _top_g(data, Ranked(rank), rate)
    count = held if held.any() else fit
    assert 1 <= top_g <= Ranked.classes
    assert count[rank >= top_g].sum() <= rate * count.sum()
    if top_g > 1:
        assert count[rank >= top_g - 1].sum() > rate * count.sum()


def test_too_little_to_learn_from_and_a_rate_that_cannot_be_are_refused():
    with pytest.raises(DataSetError, match=r"deeplog needs at least 20 windows.*there are 1[0-9]"):
        PARAMS.learn(corpus(2))
    with pytest.raises(SettingsError, match="alarm_rate is 0"):
        DeepLogParams(alarm_rate=0)
