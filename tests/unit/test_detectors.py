"""What every detector promises, checked on each of them; what one alone promises is in its own file."""

from __future__ import annotations

import numpy as np
import pytest

from models.detectors.contract import Corpus
from models.detectors.registry import REGISTRY
from models.errors import DataSetError
from tests.unit.detector_cases import NAMES, batches, corpus, lines, missing, new_text, params

NAMES_OF_ALL = list(REGISTRY)


@pytest.fixture(scope="module")
def learned():
    """Each detector's lesson, learned once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = params(name).learn(corpus(), seed=1)
        return known[name]

    return get


def run(detector, seen):
    """The scores of some batches, end to end, as one column of lines and one of ends."""
    scores = [detector.step(batch) for batch in seen]
    return np.concatenate([s.line for s in scores]), np.concatenate([s.end for s in scores])


def day():
    """Lines to judge: normal ones, a new text, a missing step."""
    made = lines(60, seed=5, fault=new_text, faulty=(11, 40))
    return sorted(made + lines(20, seed=6, fault=missing, faulty=(3, 4, 5)), key=lambda line: line.ts)


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_any_cut_into_batches_gives_the_same_scores(name, learned):
    made = day()
    whole = run(params(name).build(learned(name), NAMES), batches(made))
    for size in (1, 7, 100):
        cut = run(params(name).build(learned(name), NAMES), batches(made, range(size, len(made), size)))
        np.testing.assert_array_equal(cut[0], whole[0])
        np.testing.assert_array_equal(np.sort(cut[1]), np.sort(whole[1]))


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_state_restored_at_any_cut_goes_on_as_if_nothing_had_happened(name, learned):
    made = day()
    parts = batches(made, (50, 130, 260))
    kept = params(name).build(learned(name), NAMES)
    journal = []
    for number, part in enumerate(parts):
        fresh = params(name).build(learned(name), NAMES)
        for entry in [kept.to_bytes()] if number == 2 else journal:
            fresh.apply(entry)
        fresh.check()
        expected = kept.step(part)
        journal.append(kept.touched())
        again = fresh.step(part)
        np.testing.assert_array_equal(again.line, expected.line)
        np.testing.assert_array_equal(again.end, expected.end)


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_a_step_changes_no_input(name, learned):
    seen = batches(day())[0]
    before = {column: np.copy(getattr(seen, column)) for column in ("code", "windows", "ts", "key", "level", "text")}
    params(name).build(learned(name), NAMES).step(seen)
    for column, values in before.items():
        np.testing.assert_array_equal(getattr(seen, column), values)


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_the_same_seed_learns_the_same(name, learned):
    again = params(name).learn(corpus(), seed=1)
    assert again.facts == learned(name).facts
    assert set(again.arrays) == set(learned(name).arrays)
    for key, array in learned(name).arrays.items():
        np.testing.assert_array_equal(again.arrays[key], array)


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_scores_are_finite_or_say_nothing_and_every_score_can_be_explained(name, learned):
    detector = params(name).build(learned(name), NAMES)
    for seen in batches(day(), (100,)):
        scores = detector.step(seen)
        assert scores.line.shape == (len(seen),)
        assert scores.end.shape == (len(seen.ends),)
        assert not np.isinf(scores.line).any()
        assert not np.isinf(scores.end).any()
        for at in np.flatnonzero(~np.isnan(scores.line))[:20].tolist():
            evidence = detector.explain(seen, at)
            assert evidence.sentence.endswith(".")
            assert evidence.sentence.count("\n") == 0
        for at in np.flatnonzero(~np.isnan(scores.end))[:5].tolist():
            assert detector.explain(seen, at, is_end=True).sentence.endswith(".")


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_nothing_seen_is_no_error(name, learned):
    detector = params(name).build(learned(name), NAMES)
    seen = batches(day())[0]
    scores = detector.step(seen.take(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    assert len(scores.line) == len(scores.end) == 0
    detector.drop(12345)
    detector.check()


@pytest.mark.parametrize("name", NAMES_OF_ALL)
def test_one_template_only_is_learned_without_an_error(name):
    same = [line for line in lines(400, seed=2) if line.code == 9] * 20
    one = Corpus(batches(same, range(200, len(same), 200)), NAMES, 5)
    try:
        lesson = params(name).learn(one, seed=1)
    except DataSetError as error:
        needed = str(error)
        lesson = None
    if lesson is None:
        assert any(character.isdigit() for character in needed)  # it says how much is needed
        return
    scores = params(name).build(lesson, NAMES).step(one.batches[0])
    assert not np.isinf(scores.line).any()
