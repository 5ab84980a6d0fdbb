"""Semantic: the isolation forest, and texts that stand apart from the normal ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.detectors.semantic import Forest, SemanticParams, usual_length
from models.errors import SettingsError
from tests.unit.detector_cases import NAMES, batches, corpus, lines, new_text


@pytest.fixture(scope="module")
def learned():
    return SemanticParams(embedding="hashed").learn(corpus(60), seed=1)


def test_a_text_never_seen_scores_above_every_normal_line(learned):
    seen = batches(lines(20, seed=5, fault=new_text, faulty=(4, 9)))[0]
    detector = SemanticParams().build(learned, NAMES)
    scores = detector.step(seen).line
    is_odd = seen.code == 1
    assert is_odd.sum() == 2
    assert scores[is_odd].min() > scores[~is_odd].max() + 0.1
    assert scores[is_odd].min() > learned.facts["usual_score"]
    sentence = detector.explain(seen, int(np.flatnonzero(is_odd)[0])).sentence
    assert f"{scores[is_odd][0]:.2f}" in sentence
    assert "99%" in sentence


def test_a_rare_normal_text_is_stranger_than_a_frequent_one(learned):
    detector = SemanticParams().build(learned, NAMES)
    frequent, rare = detector.score_texts([NAMES[3], NAMES[9]])  # of each session; of the clock
    assert rare > frequent


def cloud(seed=0):
    return np.random.default_rng(seed).normal(size=(400, 6)).astype(np.float32)


def fitted(points, weights=None, trees=60, samples=128, seed=0):
    return Forest.fit(points, np.ones(len(points)) if weights is None else weights, trees, samples, seed)


def test_the_forest_ranks_points_by_their_distance_from_the_cloud():
    directions = cloud(1)[:20]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    forest = fitted(cloud())
    means = [forest.score((directions * distance).astype(np.float32)).mean() for distance in (0, 2, 4, 8)]
    assert means == sorted(means)
    assert 0 < means[0] < 0.5 < means[2]
    assert means[3] < 1


def test_paths_are_those_of_a_naive_walk_through_each_tree():
    points = np.round(cloud(), 2)
    forest = fitted(points, trees=5, samples=64)

    def walk(tree, point, node=0, depth=0):
        feature, threshold = forest.feature[tree, node], forest.threshold[tree, node]
        low, high = float(forest.low[tree, node]), float(forest.high[tree, node])
        value = float(point[feature])
        width = max(high, value) - min(low, value)
        parted = 1 - (high - low) / width if width else 0.0
        if np.isnan(threshold):
            rest = float(forest.length[tree, node])
        else:
            rest = walk(tree, point, 2 * node + 1 + int(value > threshold), depth + 1)
        return parted * (depth + 1) + (1 - parted) * rest

    asked = np.vstack((points[:10], 3 * cloud(3)[:10]))
    lengths = [np.mean([walk(tree, point) for tree in range(5)]) for point in asked]
    np.testing.assert_allclose(forest.score(asked), 2 ** (-np.array(lengths) / usual_length(64)), rtol=1e-9)


def test_a_trees_nodes_split_their_points_and_its_leaves_hold_them_all():
    points = np.round(cloud(), 1)  # with ties
    forest = fitted(points, trees=3, samples=100)
    inner = ~np.isnan(forest.threshold)
    assert inner[:, 0].all()
    assert (forest.low[inner] <= forest.threshold[inner]).all()
    assert (forest.threshold[inner] < forest.high[inner]).all()
    assert forest.feature.shape == (3, 255)  # height 7
    assert forest.length[~inner].max() >= 7


def test_one_point_scores_lowest_and_any_other_highest():
    point = cloud()[:1]
    same, other = fitted(point).score(np.vstack((point, point + 1)))
    assert same == pytest.approx(0.5)  # 2 ** (-c(n) / c(n))
    assert other == pytest.approx(2 ** (-1 / usual_length(128)))


def test_weights_decide_which_points_are_usual():
    points = np.array([[0, 0], [5, 5]], np.float32)
    first, second = fitted(points, np.array([0.95, 0.05])).score(points)
    assert first < second
    third, fourth = fitted(points, np.array([0.05, 0.95])).score(points)
    assert third > fourth


def test_a_point_scores_the_same_alone_and_among_others():
    points = cloud()
    forest = fitted(points, trees=30)
    together = forest.score(points)
    alone = np.concatenate([forest.score(points[at : at + 1]) for at in range(0, 400, 40)])
    np.testing.assert_array_equal(together[::40], alone)


def test_a_forest_that_does_not_fit_its_arrays_and_wrong_settings_are_refused(learned):
    cut = dataclasses.replace(learned, arrays={**learned.arrays, "low": learned.arrays["low"][:, :7]})
    with pytest.raises(ValueError, match="does not fit"):
        SemanticParams().build(cut, NAMES)
    for wrong in ({"trees": 0}, {"samples": 1}, {"contamination": 0.5}, {"contamination": 0}, {"learned_texts": 0}):
        with pytest.raises(SettingsError):
            SemanticParams(**wrong)
