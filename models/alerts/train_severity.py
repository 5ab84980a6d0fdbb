"""Learns the weights of models/alerts/severity.py: `python -m models.alerts.train_severity` writes them beside it, and prints what they reach.

Multinomial logistic regression over hashed words, full batches, so that a run gives the same weights again; then one temperature, fitted on wordings that
were not learned, turns its logits into probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from models.alerts.severity import WEIGHTS, features
from models.alerts.severity_corpus import SEVERITIES, Part, bare, messages, wordings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COPIES: Final = 8
_CLASSES: Final = len(SEVERITIES)
_TEMPERATURES: Final = np.geomspace(0.25, 8, 61)


@dataclass(frozen=True)
class FitParams:
    """How the regression is fitted.

    Attributes:
        penalty: of the squared weights, for a mean loss.
        steps: of gradient descent (Adam).
        rate: length of a step.
        seed: of the messages' names, numbers and surroundings.
    """

    penalty: float = 1e-4
    steps: int = 300
    rate: float = 0.1
    seed: int = 7


@dataclass(frozen=True)
class Corpus:
    """Messages as features.

    Shapes: `feature` int64[K], the features of all messages, one message after the other; `ends` int64[N], where each ends; `severity` int64[N].
    """

    feature: Ints
    ends: Ints
    severity: Ints

    @classmethod
    def of(cls, rows: Iterable[tuple[int, str]]) -> Corpus:
        """Some messages with their severity."""
        severity, hashes = zip(*((severity, features(text)) for severity, text in rows), strict=True)
        joined = [feature for row in hashes for feature in row]
        return cls(np.array(joined, np.int64), np.cumsum([len(row) for row in hashes]), np.array(severity, np.int64))

    @classmethod
    def part(cls, part: Part, seed: int) -> Corpus:
        """One part of the wordings."""
        return cls.of(messages(part, _COPIES, seed))

    def logits(self, known: Ints, weights: Floats, bias: Floats) -> Floats:
        """One a severity for each message, float64[N, 4]; features that are not among the known, sorted ones say nothing."""
        at = np.minimum(np.searchsorted(known, self.feature), len(known) - 1)
        rows = np.where((known[at] == self.feature)[:, None], weights[at], 0.0)  # [K, 4]
        return np.asarray(_per_message(rows, self.ends) / np.sqrt(np.diff(self.ends, prepend=0))[:, None] + bias)


def _per_message(rows: Floats, ends: Ints) -> Floats:
    total = np.vstack([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])  # [K + 1, 4]
    return np.diff(total[np.concatenate([[0], ends])], axis=0)


@dataclass(frozen=True)
class Fitted:
    """Weights of the known features, sorted, and the bias; probabilities are the softmax of `logits`.

    Shapes: known int64[F], weights float64[F, 4], bias float64[4].
    """

    known: Ints
    weights: Floats
    bias: Floats

    def to_bytes(self) -> bytes:
        """The file that models/alerts/severity.py reads."""
        return save(
            {
                "features": self.known.astype(np.uint32),
                "weights": self.weights.astype(np.float16),
                "bias": self.bias.astype(np.float32),
            }
        )


def fit(params: FitParams) -> Fitted:
    """The weights that the learning part gives, with the temperature of the calibration part in them."""
    corpus = Corpus.part("learn", params.seed)
    # Of names and surroundings nothing is learned: they are drawn, and say nothing.
    known = np.unique([feature for _, wording in wordings("learn") for feature in features(bare(wording))])
    column = np.minimum(np.searchsorted(known, corpus.feature), len(known) - 1)
    is_known = (known[column] == corpus.feature)[:, None]
    weights, bias = np.zeros((len(known), _CLASSES)), np.zeros(_CLASSES)
    wanted = np.eye(_CLASSES)[corpus.severity]
    lengths = np.diff(corpus.ends, prepend=0)
    scale = 1 / np.sqrt(lengths)
    descent = _Adam(params.rate), _Adam(params.rate)
    for _ in range(params.steps):
        logits = _per_message(weights[column] * is_known, corpus.ends) * scale[:, None] + bias
        error = (_softmax(logits) - wanted) / len(wanted)  # [N, 4]
        by_feature = np.repeat(error * scale[:, None], lengths, axis=0) * is_known  # [K, 4]
        gradient = np.column_stack([np.bincount(column, by_feature[:, c], len(known)) for c in range(_CLASSES)])
        weights = descent[0].step(weights, gradient + params.penalty * weights)
        bias = descent[1].step(bias, error.sum(axis=0))
    temperature = _temperature(Corpus.part("calibrate", params.seed + 1), known, weights, bias)
    return Fitted(known, weights / temperature, bias / temperature)


class _Adam:
    """Gradient descent that scales each step by what the gradient was so far (Kingma and Ba, 2015)."""

    def __init__(self, rate: float) -> None:
        self._rate, self._steps = rate, 0
        self._mean, self._square = np.zeros(()), np.zeros(())

    def step(self, value: Floats, gradient: Floats) -> Floats:
        self._steps += 1
        self._mean = np.asarray(0.9 * self._mean + 0.1 * gradient)
        self._square = np.asarray(0.999 * self._square + 0.001 * gradient**2)
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.999**self._steps)
        return np.asarray(value - self._rate * mean / (np.sqrt(square) + 1e-8))


def _softmax(logits: Floats) -> Floats:
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True))


def _temperature(corpus: Corpus, known: Ints, weights: Floats, bias: Floats) -> float:
    logits = corpus.logits(known, weights, bias)
    losses = [-np.log(_softmax(logits / t)[np.arange(len(logits)), corpus.severity]).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


@dataclass(frozen=True)
class Reached:
    """How well severities are told.

    Attributes:
        accuracy: share of messages whose severity is right …
        within_one: … or next to it.
        calibration_error: mean distance between confidence and accuracy, over ten bins of confidence.
        confusion: int64[4, 4], messages by their severity and by the one they were given.
    """

    accuracy: float
    within_one: float
    calibration_error: float
    confusion: Ints


def measure(fitted: Fitted, corpus: Corpus) -> Reached:
    """What the text alone reaches on some messages."""
    likely = _softmax(corpus.logits(fitted.known, fitted.weights, fitted.bias))
    told, sure = likely.argmax(axis=1), likely.max(axis=1)
    is_right = told == corpus.severity
    bins = np.minimum((sure * 10).astype(np.int64), 9)
    error = sum(abs(sure[bins == b].sum() - is_right[bins == b].sum()) for b in range(10)) / len(told)
    confusion = np.zeros((_CLASSES, _CLASSES), np.int64)
    np.add.at(confusion, (corpus.severity, told), 1)
    near = np.abs(told - corpus.severity) <= 1
    return Reached(float(is_right.mean()), float(near.mean()), float(error), confusion)


def main() -> None:
    """Learn, write, and say what was reached on wordings that were held out."""
    params = FitParams()
    fitted = fit(params)
    path = Path(__file__).with_name(WEIGHTS)
    path.write_bytes(fitted.to_bytes())
    reached = measure(fitted, Corpus.part("test", params.seed + 2))
    print(f"{path.name}: {len(fitted.known):,} features, {path.stat().st_size:,} bytes")
    print(f"held-out wordings: {reached.accuracy:.1%} right, {reached.within_one:.1%} within one severity, ", end="")
    print(f"calibration error {reached.calibration_error:.3f}")
    print(f"confusion (rows: true; {', '.join(SEVERITIES)}):\n{reached.confusion}")


if __name__ == "__main__":
    main()
