"""LogGPT: the wrong order and the step left out stand out, and refinement does what it is there for."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from models.detectors.contract import Corpus
from models.detectors.gpt import GPT, Counted, Course, _log_probability, look, refine, surprises
from models.detectors.loggpt import LogGPTParams
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import (
    END,
    LENGTH,
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

FAULTY = range(5, 60, 11)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def normal():
    return corpus()


@pytest.fixture(scope="module")
def learned(normal, told):
    return LogGPTParams().learn(normal, seed=3, report=lambda *progress: told.append(progress))


@pytest.fixture
def detector(learned):
    return LogGPTParams().build(learned, NAMES)


def judged(detector, fault):
    """A batch with some sessions at fault, its scores, and which lines and ends are of these sessions."""
    seen = batches(lines(60, seed=9, fault=fault, faulty=FAULTY))[0]
    ends = np.isin(seen.ends.key, np.array([1_000 + number for number in FAULTY], np.uint64))
    return seen, detector.step(seen), is_faulty(seen, FAULTY), ends


def test_a_line_outside_the_top_k_is_one_whose_score_says_so_and_a_new_line_is_always(learned, detector):
    for fault in (swapped, new_text):
        seen, scores, faulty, _ = judged(detector, fault)
        outside = detector.outside(seen)
        assert outside[seen.code == 1].all()
        assert 0 < outside[faulty].mean() < 1
        all_in = replace(learned, facts={**learned.facts, "top_k": len(NAMES) - 1})
        more = scores.line - LogGPTParams().build(all_in, NAMES).step(seen).line  # of which all are among the top k
        known = ~np.isnan(more) & (seen.code != 1)
        np.testing.assert_array_equal(outside[known], more[known] > 0.5)


@pytest.mark.parametrize("fault", [swapped, missing])
def test_the_worst_line_of_each_session_in_the_wrong_order_is_above_every_normal_line(detector, fault):
    seen, scores, faulty, _ = judged(detector, fault)
    normal = np.nanmax(scores.line[~faulty])
    worst = [np.nanmax(scores.line[faulty & (seen.key == key)]) for key in np.unique(seen.key[faulty])]
    assert len(worst) == len(FAULTY)
    assert min(worst) > normal + 2  # a hundred times less likely


def test_an_end_half_way_is_above_every_normal_end(detector):
    _, scores, _, faulty = judged(detector, stopped)
    assert faulty.sum() == len(FAULTY)
    assert scores.end[faulty].min() > scores.end[~faulty].max() + 2


def test_an_unknown_template_has_the_highest_score_there_is(detector):
    seen, scores, _, _ = judged(detector, new_text)
    assert np.unique(scores.line[seen.code == 1]).tolist() == [7.0]
    assert np.nanmax(scores.line[seen.code != 1]) < 7


def test_late_lines_and_a_sequence_without_a_beginning_are_not_judged(detector):
    seen, scores, _, _ = judged(detector, swapped)
    is_cold = ~seen.has_session & (seen.windows[:, 0] == 0)
    np.testing.assert_array_equal(np.isnan(scores.line), is_cold)
    assert is_cold.any()
    late = detector.step(replace(seen, is_late=np.ones(len(seen), np.bool_)))
    assert np.isnan(late.line).all()


def test_an_explanation_says_what_was_expected_and_what_came(detector):
    seen, _, faulty, _ = judged(detector, swapped)
    at = int(np.flatnonzero(faulty & (seen.windows[:, -1] == 2))[0])
    evidence = detector.explain(seen, at)
    classes, shares = zip(*evidence.expected, strict=True)
    assert classes[0] == 3  # the basket is loaded after the request
    assert len(classes) == 5
    assert shares[0] > 0.8
    assert list(shares) == sorted(shares, reverse=True)
    assert NAMES[3] in evidence.sentence
    assert f"{NAMES[int(seen.code[at])]}” came" in evidence.sentence


def test_the_end_is_explained_by_what_was_expected_instead(detector):
    seen, scores, _, _ = judged(detector, stopped)
    evidence = detector.explain(seen, int(np.nanargmax(scores.end)), is_end=True)
    assert "the session's end came" in evidence.sentence
    assert evidence.expected[0][0] in (3, 4, 5, 6)
    assert END not in dict(evidence.expected)


def test_learning_keeps_the_figures_before_and_after_refinement_and_tells_of_both(learned, told):
    facts = learned.facts
    for figures in (facts["pretrained"], facts["refined"]):
        assert figures["outside_ratio"] == 0
        assert 0 < figures["loss"] < 0.5  # nats; which path a session takes alone is 0.9 nats a session of six lines
    assert facts["is_refined"]
    assert {what for what, _, _ in told} == {"pretraining", "refining"}
    assert max(done for _, done, _ in told) == 1


def test_refinement_brings_what_normally_comes_among_the_predictions():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = GPT(12, 4, width=16, dropout=0.0)
    rng = np.random.default_rng(5)
    rows = np.unique(rng.integers(2, 11, (60, 5)).astype(np.int32), axis=0)
    taught = Counted.of(rows, np.ones(len(rows), np.int64))
    before = look(network, taught, 3).outside_ratio
    losses = []
    course = Course(60, 64, 3e-3)
    refine(network, taught, 3, course, torch.Generator().manual_seed(5), lambda _, loss: losses.append(loss))
    assert before > 0.5  # an untaught network foresees as chance does: three in ten
    assert look(network, taught, 3).outside_ratio < before / 2
    assert losses[-1] < losses[0] - 0.5  # mean reward, from −1 to 1


def test_a_refinement_that_does_harm_is_not_kept(normal):
    params = LogGPTParams(min_steps=60, refine_steps=5, refine_learning_rate=3.0)
    lesson = params.learn(normal, seed=3)
    assert lesson.facts["refined"]["outside_ratio"] > lesson.facts["pretrained"]["outside_ratio"]
    assert not lesson.facts["is_refined"]
    plain = replace(params, refine_steps=0).learn(normal, seed=3)
    for name, weight in plain.arrays.items():
        np.testing.assert_array_equal(lesson.arrays[name], weight)


def test_the_probabilities_of_all_lists_that_can_be_drawn_sum_to_one():
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0, 9.0]])
    lists = torch.tensor(list(permutations(range(5), 3)))[:, None]  # [60, 1, 3]
    likely = _log_probability(logits, lists).exp()
    assert float(likely.sum()) == pytest.approx(1, abs=1e-5)
    share = torch.softmax(logits[0], 0)
    first = [float(likely[lists[:, 0, 0] == code].sum()) for code in range(5)]
    assert first == pytest.approx(share.tolist(), abs=1e-6)


def test_a_window_has_the_same_answer_beside_any_others():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = GPT(20, LENGTH)
    windows = np.random.default_rng(1).integers(0, 19, (50, LENGTH)).astype(np.int32)
    whole = surprises(network, windows, 16)
    np.testing.assert_array_equal(whole[[7]], surprises(network, windows[[7]], 16))
    np.testing.assert_array_equal(whole[::-1], surprises(network, windows[::-1], 16))
    assert np.abs((10.0**-whole).sum(axis=1) - 1).max() < 0.01


def test_an_older_place_never_hears_of_a_newer_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = GPT(20, LENGTH).eval()
        states = torch.randn(1, LENGTH, 64)
    changed = states.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        before, after = (network.blocks[0](each, asked=LENGTH)[0] for each in (states, changed))
    assert torch.allclose(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_too_few_lines_are_refused_with_how_many_are_needed(normal):
    few = Corpus(batches(lines(10))[:1], NAMES, LENGTH)
    with pytest.raises(DataSetError, match=rf"at least 100 lines .* there are {len(few)}"):
        LogGPTParams().learn(few)
    unknown = [replace(batch, code=np.ones(len(batch), np.int32)) for batch in normal.batches]
    unknown = [batch.take(np.arange(len(batch)), np.zeros(0, np.int64)) for batch in unknown]
    with pytest.raises(DataSetError, match="none of"):
        LogGPTParams().learn(Corpus(unknown, NAMES, LENGTH))


def test_weights_of_another_vocabulary_are_refused(learned):
    with pytest.raises(ValueError, match="do not fit the vocabulary"):
        LogGPTParams().build(learned, (*NAMES, "one more"))
    spoiled = {**learned.arrays, "norm.bias": np.full(64, np.nan, np.float32)}
    with pytest.raises(ValueError, match="not finite"):
        LogGPTParams().build(replace(learned, arrays=spoiled), NAMES)
    with pytest.raises(ValueError, match="out of range"):
        LogGPTParams().build(replace(learned, facts={**learned.facts, "heads": 7}), NAMES)


@pytest.mark.parametrize(
    "setting", [{"top_k_ratio": 1.0}, {"dropout": 1.0}, {"refine_steps": -1}, {"width": 0}, {"heads": 5}]
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(setting):
    with pytest.raises(SettingsError, match=next(iter(setting))):
        LogGPTParams(**setting)
