"""Semantic: an isolation forest over the sentence vectors of normal texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import Corpus, Evidence, Float32, Learned, Report, Seen, quiet
from models.detectors.texts import TextDetector, TextParams, normal_texts
from models.embedding import Encoder, load, recall
from models.errors import SettingsError

Float64 = npt.NDArray[np.float64]

_ROWS_AT_ONCE: Final = 256  # texts scored together; bounds memory, changes no score
_FLAT: Final = ("feature", "low", "high", "threshold", "length")


@dataclass(frozen=True)
class SemanticParams(TextParams):
    """The forest.

    Attributes:
        trees, samples: trees, and texts drawn for each; the paper's section 4.4 finds no gain beyond 100 and 256.
        contamination: share of the normal lines taken to be strange all the same: a person is told the score above which they lie.
    """

    name: ClassVar[str] = "semantic"
    is_heavy: ClassVar[bool] = True
    family: ClassVar[str] = "text"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    trees: int = 100
    samples: int = 256
    contamination: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trees < 1 or self.samples < 2:
            raise SettingsError(f"trees is {self.trees} and samples {self.samples}; at least 1 and 2 are needed.")
        if not 0 < self.contamination < 0.5:
            raise SettingsError(f"contamination is {self.contamination}; it must be above 0 and below 0.5.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """A forest in which a text weighs the square root of its lines, so that a chatty one does not fill it."""
        normal = normal_texts(corpus, self)
        encoder = load(self.embedding)
        vectors = encoder.sentences(normal.texts, lambda done: report("embedding normal texts", 0.8 * done, None))
        forest = Forest.fit(vectors, np.sqrt(normal.counts), self.trees, self.samples, seed)
        report("growing the forest", 1.0, None)
        scores = forest.score(vectors)
        order = np.argsort(scores, kind="stable")
        below = np.cumsum(normal.counts[order]) >= (1 - self.contamination) * normal.counts.sum()
        facts = {
            "embedding": encoder.about(),
            "texts": len(normal.texts),
            "samples": self.samples,
            "usual_score": round(float(scores[order[below.argmax()]]), 5),
        }
        return Learned({**forest.arrays(), "varied": normal.varied}, facts)

    def build(self, learned: Learned, names: Sequence[str]) -> Semantic:
        """The detector."""
        return Semantic(self, learned, names, recall(learned.facts["embedding"]))


class Semantic(TextDetector):
    """Score of a text: the anomaly score of its sentence vector, between 0 and 1; about 0.5 and less is usual.

    Source: Liu, Ting and Zhou, Isolation Forest (ICDM 2008), equation 2.
    """

    def __init__(self, params: SemanticParams, learned: Learned, names: Sequence[str], encoder: Encoder) -> None:
        super().__init__(names, learned.arrays["varied"], params.memo_texts)
        self._encoder = encoder
        self._forest = Forest.of(learned.arrays, int(learned.facts["samples"]), encoder.width)
        self._usual_score = float(learned.facts["usual_score"])
        self._normal_ratio = 1 - params.contamination
        self._learned_texts = int(learned.facts["texts"])

    def score_texts(self, texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        """How easily each text is told apart from the normal ones."""
        return self._forest.score(self._encoder.sentences(texts))

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """The score beside that of normal lines."""
        score = float(self.step(seen.take(np.array([at]))).line[0])
        return Evidence(
            f"The text stands apart from the {self._learned_texts:,} normal texts by {score:.2f}; "
            f"{self._normal_ratio:.0%} of the normal lines stay within {self._usual_score:.2f}."
        )


def usual_length(size: int) -> float:
    """The mean path length of an unsuccessful search in a binary search tree of so many points: c(n) of the paper.

    >>> [round(usual_length(size), 3) for size in (1, 2, 256)]
    [0.0, 1.0, 10.245]
    """
    if size <= 2:
        return float(size == 2)
    return 2 * (math.log(size - 1) + np.euler_gamma) - 2 * (size - 1) / size


class Forest:
    """An isolation forest as flat arrays; the children of node i are 2i + 1 and 2i + 2.

    A text seldom equals a normal one, and where normal texts are few every leaf holds one of them. So a point beyond the range of a node's points
    is taken as it would fare had it been there: a split drawn over the wider range parts it from all of them with the probability of the part beyond, and
    then its path ends. The path length is the mean over both.

    Shapes: trees × nodes, nodes = 2^(⌈log2 samples⌉ + 1) − 1: `feature int16`; `low`, `high` float32, the range of the node's points in it;
        `threshold float32`, to the left up to it, NaN in a leaf; `length float32`, of a path that ends in this leaf.
    Source: Liu, Ting and Zhou (ICDM 2008), algorithms 1–3; the point beyond the range: Guha et al., Robust Random Cut Forest (ICML 2016), section 2.1.
    """

    def __init__(
        self,
        samples: int,
        feature: npt.NDArray[np.int16],
        low: Float32,
        high: Float32,
        threshold: Float32,
        length: Float32,
    ) -> None:
        self.feature, self.low, self.high, self.threshold, self.length = feature, low, high, threshold, length
        self.samples = samples
        self._depth = _depth(samples)

    @classmethod
    def fit(cls, vectors: Float32, weights: Float64, trees: int, samples: int, seed: int) -> Forest:
        """Grow the trees on points drawn by weight, with replacement; `vectors float32[K, D]`, `weights float64[K]`."""
        chance = np.random.default_rng(seed)
        shape = (trees, (2 << _depth(samples)) - 1)
        forest = cls(
            samples,
            np.zeros(shape, np.int16),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.full(shape, np.nan, np.float32),
            np.zeros(shape, np.float32),
        )
        share = weights / weights.sum()
        for tree in range(trees):
            forest._grow(tree, vectors[chance.choice(len(vectors), samples, p=share)], chance)
        return forest

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], samples: int, width: int) -> Forest:
        """The forest kept in these arrays.

        Raises: ValueError if they do not fit together.
        """
        flat = [arrays[name] for name in _FLAT]
        shape = (len(flat[0]), (2 << _depth(samples)) - 1)
        if any(array.shape != shape for array in flat) or int(flat[0].max()) >= width:
            raise ValueError(f"a forest of {samples} samples a tree over {width} numbers does not fit its arrays")
        return cls(samples, *flat)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `of` takes."""
        return {name: getattr(self, name) for name in _FLAT}

    def score(self, vectors: Float32) -> Float64:
        """The anomaly score s(x, n) of each point; `float32[B, D]` → `float64[B]`."""
        parts = [self._lengths(vectors[at : at + _ROWS_AT_ONCE]) for at in range(0, len(vectors), _ROWS_AT_ONCE)]
        scores: Float64 = 2.0 ** (-np.concatenate([np.zeros(0), *parts]) / usual_length(self.samples))
        return scores

    def _lengths(self, vectors: Float32) -> Float64:
        """The mean path length of each point."""
        rows = np.arange(len(vectors))[:, None]  # [B, 1]
        trees = np.arange(len(self.feature))  # [T]
        node = np.zeros((len(vectors), len(trees)), np.intp)  # [B, T]
        staying, length = np.ones(node.shape), np.zeros(node.shape)  # [B, T] not parted yet; path length so far
        for depth in range(self._depth + 1):
            value = vectors[rows, self.feature[trees, node]].astype(np.float64)
            low, high = self.low[trees, node].astype(np.float64), self.high[trees, node].astype(np.float64)
            threshold = self.threshold[trees, node]
            beyond = np.maximum(np.maximum(low - value, value - high), 0.0)
            parted = beyond / np.maximum(high - low + beyond, 1e-12)
            length += staying * parted * (depth + 1)
            staying *= 1 - parted
            is_leaf = np.isnan(threshold)
            length += np.where(is_leaf, staying * self.length[trees, node], 0.0)
            staying[is_leaf] = 0.0
            node = np.where(is_leaf, node, 2 * node + 1 + (value > threshold))
        mean: Float64 = length.mean(axis=1)
        return mean

    def _grow(self, tree: int, points: Float32, chance: np.random.Generator) -> None:
        waiting = [(0, 0, points)]
        while waiting:
            node, depth, here = waiting.pop()
            low, high = here.min(axis=0), here.max(axis=0)  # [D]
            varying = np.flatnonzero(high > low)
            feature = int(chance.choice(varying) if len(varying) else chance.integers(points.shape[1]))
            self.feature[tree, node] = feature
            self.low[tree, node], self.high[tree, node] = low[feature], high[feature]
            if depth == self._depth or not len(varying):
                self.length[tree, node] = depth + usual_length(len(here))
                continue
            drawn = np.float32(chance.uniform(low[feature], high[feature]))
            threshold = min(drawn, np.nextafter(high[feature], low[feature]))  # so that neither side is empty
            self.threshold[tree, node] = threshold
            is_left = here[:, feature] <= threshold
            waiting += [(2 * node + 1, depth + 1, here[is_left]), (2 * node + 2, depth + 1, here[~is_left])]


def _depth(samples: int) -> int:
    """The height at which growing stops: the mean height of such a tree."""
    return math.ceil(math.log2(samples))
