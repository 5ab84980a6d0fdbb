"""DeepLog: after these lines the next one should have been another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch

from models.deeplog import DIGITS, FIRST_TEMPLATE, UNKNOWN, DeepLog, DeepLogScorer
from models.detectors.contract import Bools, Corpus, Detector, Evidence, Int32, Learned, Report, Scores, Seen, quiet
from models.errors import DataSetError, SettingsError
from models.fitting import Epoch, Examples, FitParams, fit

_FLOOR: Final = 10.0**-DIGITS  # probabilities are rounded to this
_EXPECTED: Final = 5
_MIN_WINDOWS: Final = 20


@dataclass(frozen=True)
class DeepLogParams:
    """How the network is fitted and its top-g chosen.

    Attributes:
        fit: the network, and how it is fitted.
        alarm_rate: share of held-out lines that may lie outside the top g.
    """

    name: ClassVar[str] = "deeplog"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "order"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    fit: FitParams = field(default_factory=FitParams)
    alarm_rate: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.alarm_rate < 1:
            raise SettingsError(f"deeplog's alarm_rate is {self.alarm_rate}; give a share above 0, below 1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The network's weights, and the smallest top-g within the alarm rate.

        Raises: DataSetError if there are next to no windows.
        """
        data = examples(corpus)
        windows = int(data.fit_count.sum())
        if windows < _MIN_WINDOWS:
            raise DataSetError(f"deeplog needs at least {_MIN_WINDOWS} windows to learn from, and there are {windows}.")

        def tell(epoch: Epoch) -> None:
            loss = epoch.loss if epoch.held_out_loss is None else epoch.held_out_loss
            report(f"epoch {epoch.number}, {epoch.windows_per_s:,.0f} windows/s", epoch.number / epoch.total, loss)

        fitted = fit(data, self.fit.with_seed(seed), tell)
        arrays = {name: tensor.numpy() for name, tensor in fitted.weights.items()}
        best = fitted.best
        return Learned(
            arrays,
            {
                "hidden": self.fit.hidden,
                "layers": self.fit.layers,
                "top_g": _top_g(data, DeepLogScorer(fitted.weights), self.alarm_rate),
                "windows": windows + int(data.held_count.sum()),
                "distinct_windows": len(data.rows),
                "epochs": fitted.epochs,
                "loss": round(best.loss, 5),
                "held_out_loss": None if best.held_out_loss is None else round(best.held_out_loss, 5),
                "device": fitted.device,
            },
        )

    def build(self, learned: Learned, names: Sequence[str]) -> DeepLogDetector:
        """The detector.

        Raises: ValueError if the weights do not fit the classes.
        """
        facts = learned.facts
        hidden, layers, top_g = int(facts["hidden"]), int(facts["layers"]), int(facts["top_g"])
        classes = len(names) + 1
        if not 1 <= hidden <= 4096 or not 1 <= layers <= 8 or not 1 <= top_g <= classes:
            raise ValueError("deeplog's size or top-g is out of range")
        with torch.device("meta"):  # shapes only, no memory
            expected = {name: tuple(t.shape) for name, t in DeepLog(classes, hidden, layers).state_dict().items()}
        if {name: tuple(array.shape) for name, array in learned.arrays.items()} != expected:
            raise ValueError("the shapes of deeplog's weights do not fit the vocabulary")
        weights = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in learned.arrays.items()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise ValueError("one of deeplog's weights is not finite")
        return DeepLogDetector(DeepLogScorer(weights), top_g, names)


class DeepLogDetector(Detector):
    """−log10 of the probability of what came, and 1 more outside the top g; an unknown template, as in the paper, is as unlikely as can be.

    A service's own sequence has no beginning: until its window is full, nothing is said of its lines.

    Source: Du et al., DeepLog: Anomaly Detection and Diagnosis from System Logs through Deep Learning (CCS 2017), section 3.1. The probability
    beside the rank is ours: beyond the few likely templates the order of the rest means little.
    """

    def __init__(self, scorer: DeepLogScorer, top_g: int, names: Sequence[str]) -> None:
        self.scorer = scorer
        self.top_g = top_g
        self._names = names

    def step(self, seen: Seen) -> Scores:
        """New windows of lines and of ends are evaluated together."""
        both = np.concatenate((seen.windows, seen.ends.windows))
        asked = np.concatenate((seen.code, np.full(len(seen.ends), self.scorer.end, np.int32)))
        probability, rank = self.scorer.score(both, asked)
        score = -np.log10(np.maximum(probability, np.float32(_FLOOR))) + (rank >= self.top_g)
        score = np.round(score, DIGITS).astype(np.float32)
        line, end = score[: len(seen)], score[len(seen) :]
        line[~is_judged(seen)] = np.nan
        end[seen.ends.windows[:, -1] < FIRST_TEMPLATE] = np.nan
        return Scores(line, end)

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """What was expected at this place, with probabilities."""
        if not is_end and seen.code[at] == UNKNOWN:
            return Evidence("No line like this was among those that DeepLog learned from.")
        window = (seen.ends.windows if is_end else seen.windows)[at]
        expected = self.scorer.expected(window, _EXPECTED)
        likely = " or ".join(f"{quote(self._names[code])} ({share:.1%})" for code, share in expected[:2])
        if is_end:
            last = quote(self._names[int(window[-1])])
            return Evidence(
                f"The session stopped after {last}; {likely} was expected to follow, and nothing came.", expected
            )
        code = seen.code[at : at + 1]
        probability, rank = self.scorer.score(window[None, :], code)
        if rank[0] == 0:
            came = f"{quote(self._names[int(code[0])])} was the likeliest to come after these lines, with a probability of {float(probability[0]):.1%} only"
            return Evidence(f"{came}: normal lines leave less doubt.", expected)
        return Evidence(
            f"After these lines {likely} was expected; {quote(self._names[int(code[0])])} came instead, "
            f"number {int(rank[0]) + 1} in the order with a probability of {float(probability[0]):.3%}.",
            expected,
        )


def quote(text: str, length: int = 100) -> str:
    """A template in an explanation, cut to a length.

    >>> quote("disk full", 6)
    '«disk …»'
    """
    return f"«{text if len(text) <= length else text[: length - 1] + '…'}»"


def is_judged(seen: Seen) -> Bools:
    """The lines that a detector of the order of lines has a say on: not late, and with lines before it where the service has no sessions; `bool[N]`."""
    is_cold = ~seen.has_session & (seen.windows[:, 0] < 1)
    judged: Bools = (seen.code == UNKNOWN) | ~(seen.is_late | is_cold)
    return judged


def examples(corpus: Corpus) -> Examples:
    """Distinct (window, next) rows, with the ends of sessions, counted in the fit and in the held-out part."""
    end = len(corpus.names)
    rows: list[Int32] = []
    held: list[Bools] = []
    low = 0
    all_held = np.zeros(len(corpus), np.bool_) if corpus.is_held is None else corpus.is_held
    held_keys = np.unique(corpus.column("key")[all_held])  # a session's end may be told in a later batch than its lines
    for seen in corpus.batches:
        is_held = all_held[low : low + len(seen)]
        low += len(seen)
        taught = seen.code >= FIRST_TEMPLATE  # beyond the cap on templates there is nothing to predict
        rows += [
            np.column_stack((seen.windows, seen.code))[taught],
            np.column_stack((seen.ends.windows, np.full(len(seen.ends), end, np.int32))),
        ]
        held += [is_held[taught], np.isin(seen.ends.key, held_keys)]
    distinct, inverse = _distinct(np.concatenate(rows).astype(np.int32))
    is_held = np.concatenate(held)
    fit_count, held_count = (np.bincount(inverse[part], minlength=len(distinct)) for part in (~is_held, is_held))
    return Examples(distinct, fit_count, held_count, end)


def _distinct(rows: Int32) -> tuple[Int32, npt.NDArray[np.int64]]:
    """The distinct rows, and the number of each row among them; by a 64-bit hash, which is exact for all that memory holds."""
    factors = np.random.default_rng(2017).integers(1, 2**64, rows.shape[1], dtype=np.uint64) | np.uint64(1)
    keys = np.zeros(len(rows), np.uint64)
    for at in range(rows.shape[1]):
        keys += rows[:, at].astype(np.uint64) * factors[at]
    _, place, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[place], inverse.ravel()


def _top_g(data: Examples, scorer: DeepLogScorer, alarm_rate: float) -> int:
    """The smallest g outside of which no more than this share of the held-out (without any, of all) lines lie."""
    count = data.held_count if data.held_count.any() else data.fit_count
    part = np.flatnonzero((count > 0) & (data.rows[:, -1] < data.end))
    if not len(part):
        return 1
    _, rank = scorer.score(data.rows[part, :-1], data.rows[part, -1])
    order = np.argsort(-rank, kind="stable")
    beyond = np.cumsum(count[part][order])
    first_kept = int(np.searchsorted(beyond, alarm_rate * beyond[-1], side="right"))
    return min(scorer.classes, 1 + int(rank[order[min(first_kept, len(order) - 1)]]))
