"""RAPID: the nearest normal text, what differs from it, and texts that become normal later."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.detectors.contract import Corpus
from models.detectors.rapid import RapidParams, cover
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import NAMES, UNKNOWN_TEXT, Line, batches, corpus, is_faulty, lines, new_text

REWORDED = "basket <id> lost from the store in <num> ms"


def reworded(made, rng):
    """A line of a new kind that differs from a normal one by a word."""
    odd = Line(1, made[2].ts + 1, made[2].key, made[2].service, 7.0, REWORDED)
    return [*made[:3], odd, *made[3:]]


def rapid(**changed):
    """With the embedding that is built in, whose figures these tests know; tests/unit/test_embedding.py has the real one."""
    return RapidParams(**{"embedding": "hashed", **changed})


@pytest.fixture(scope="module")
def learned():
    return rapid().learn(corpus(60), seed=1)


def build(learned, **changed):
    return rapid(**changed).build(learned, NAMES)


def judged(fault, faulty=(4, 9)):
    return batches(lines(20, seed=5, fault=fault, faulty=faulty))[0]


@pytest.mark.parametrize("level", ["token", "sentence"])
@pytest.mark.parametrize("fault", [new_text, reworded])
def test_a_text_never_seen_scores_above_every_normal_line(learned, level, fault):
    seen = judged(fault)
    scores = build(learned, level=level).step(seen).line
    is_odd = seen.code == 1
    assert is_odd.sum() == 2
    assert is_faulty(seen, (4, 9))[is_odd].all()
    assert scores[is_odd].min() > 0.05
    assert (scores[~is_odd] == 0).all()  # each is a text of the core set


def test_the_token_level_score_counts_the_share_of_words_that_the_nearest_text_lacks(learned):
    one, all_of_them = build(learned).score_texts([REWORDED, UNKNOWN_TEXT])
    assert 0.05 < one < 1.2 / 9  # one word of nine, and no other word explains it
    assert all_of_them > 0.6


def test_words_left_out_or_moved_are_no_difference_for_tokens_but_are_for_the_sentence(learned):
    shorter = "basket <id> loaded in <num> ms"
    assert build(learned).score_texts([shorter])[0] == 0
    assert build(learned, level="sentence").score_texts([shorter])[0] > 0.01


def test_the_nearest_normal_line_and_the_differing_words_are_told(learned):
    seen = judged(reworded)
    detector = build(learned)
    detector.step(seen)
    evidence = detector.explain(seen, int(np.flatnonzero(seen.code == 1)[0]))
    assert evidence.nearest == NAMES[3]
    assert evidence.differing == ["lost"]
    assert NAMES[3] in evidence.sentence
    assert "lost" in evidence.sentence
    known = detector.explain(seen, 0)
    assert known.nearest == seen.texts[seen.text[0]]
    assert known.differing == ()


def test_an_added_text_is_normal_at_once_and_near_ones_come_nearer(learned):
    detector = build(learned)
    seen = judged(new_text)
    is_odd = seen.code == 1
    near = UNKNOWN_TEXT + " again"
    far = detector.score_texts([near])[0]
    assert detector.step(seen).line[is_odd].min() > 0.6
    detector.add(UNKNOWN_TEXT)
    assert (detector.step(seen).line == 0).all()
    assert 0 < detector.score_texts([near])[0] < far / 2
    assert detector.explain(seen, int(np.flatnonzero(is_odd)[0])).nearest == UNKNOWN_TEXT
    detector.check()


def test_added_texts_survive_a_restore_and_the_oldest_leave_beyond_the_bound(learned):
    detector = build(learned, added_texts=3)
    journal = []
    texts = [f"{word} lamp of the lighthouse went out" for word in ("red", "green", "blue", "white", "black")]
    for text in texts:
        detector.add(text)
        journal.append(detector.touched())
    detector.add(texts[-1])
    assert detector.touched() == b""
    for entries in (journal, [detector.to_bytes()], [*journal[:2], b"", *journal[2:]]):
        again = build(learned, added_texts=3)
        for entry in entries:
            again.apply(entry)
        again.check()
        assert again.touched() == b""
        assert again.to_bytes() == detector.to_bytes()
        scores = again.score_texts(texts)
        np.testing.assert_array_equal(scores, detector.score_texts(texts))
        assert (scores[:2] > 0).all()
        assert (scores[2:] == 0).all()


def test_state_of_another_version_or_model_is_refused(learned):
    detector = build(learned)
    detector.add("something")
    state = bytearray(detector.to_bytes())
    for place in (0, 5):
        other = bytearray(state)
        other[place] ^= 1
        with pytest.raises(ValueError, match=r"CHANGELOG\.md"):
            build(learned).apply(bytes(other))


def test_a_full_memo_changes_no_score(learned):
    texts = [f"{word} lamp went out" for word in "abcdefghij"]
    seen = judged(new_text).take(np.arange(25))
    seen = dataclasses.replace(seen, texts=texts, code=np.ones(25, np.int32), text=np.arange(25) % 10)
    small, large = build(learned, memo_texts=3), build(learned)
    for _ in range(3):
        np.testing.assert_array_equal(small.step(seen).line, large.step(seen).line)
        small.check()
    assert len(np.unique(large.step(seen).line)) > 1


def test_a_template_of_many_texts_is_judged_by_the_template():
    made = lines(60)
    free = [dataclasses.replace(line, text=f"price for user u{at}") for at, line in enumerate(made) if line.code == 4]
    batch = batches(free)[0]
    lesson = rapid(texts_per_class=20).learn(Corpus([batch], NAMES, 5))
    assert lesson.facts["core"] == [NAMES[4]]
    assert lesson.arrays["varied"].tolist() == [4]
    detector = rapid(texts_per_class=20).build(lesson, NAMES)
    unseen = dataclasses.replace(batch, texts=[text + "x" for text in batch.texts])
    assert (detector.step(unseen).line == 0).all()
    assert detector.explain(unseen, 0).nearest == NAMES[4]
    as_unknown = dataclasses.replace(unseen, code=np.ones(len(unseen), np.int32))
    assert (detector.step(as_unknown).line > 0).all()


def test_the_core_set_covers_the_texts_within_its_bound():
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 0, 3]]
    assert cover(vectors, 4).tolist() == [0, 2, 4, 7]
    assert cover(vectors, 100).tolist() == list(range(8))
    lesson = rapid(core_texts=3).learn(corpus(30))
    assert len(lesson.facts["core"]) == len(lesson.arrays["sentences"]) == len(lesson.arrays["counts"]) == 3
    assert NAMES[3] in lesson.facts["core"]  # the most frequent


def test_lines_held_out_teach_nothing():
    normal = corpus(30)
    is_held = normal.column("code") == 6
    lesson = rapid().learn(dataclasses.replace(normal, is_held=is_held))
    assert NAMES[6] not in lesson.facts["core"]
    assert lesson.arrays["counts"].sum() == (~is_held).sum()
    detector = rapid().build(lesson, NAMES)
    for seen in normal.batches:
        np.testing.assert_array_equal(detector.step(seen).line > 0, seen.code == 6)


def test_no_lines_another_model_or_wrong_settings_are_refused(learned):
    with pytest.raises(DataSetError, match="at least 1"):
        rapid().learn(Corpus([], NAMES, 5))
    about = {**learned.facts["embedding"], "fingerprint": "another"}
    with pytest.raises(SettingsError, match="trained with another sentence model 'hashed'"):
        build(dataclasses.replace(learned, facts={**learned.facts, "embedding": about}))
    for wrong in ({"level": "word"}, {"neighbours": 0}, {"embedding": ""}, {"memo_texts": 0}):
        with pytest.raises(SettingsError):
            rapid(**wrong)
