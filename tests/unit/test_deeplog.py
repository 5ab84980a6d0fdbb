"""The scorer against the network itself, and its promise of equal answers for any cut."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.deeplog import PADDING, UNKNOWN, DeepLog, DeepLogRule, DeepLogScorer

CLASSES = 20
END = CLASSES - 1


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches this small gain nothing by threads, and lose much beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_the_rule_takes_rank_or_probability():
    rule = DeepLogRule(top_g=3, min_probability=0.01, min_end_probability=0.1)
    flagged = rule.is_anomalous(np.array([0.5, 0.5, 0.005], np.float32), np.array([2, 3, 0], np.int32))
    assert flagged.tolist() == [False, True, True]
    assert rule.is_anomalous_end(np.array([0.09, 0.1], np.float32)).tolist() == [True, False]


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
