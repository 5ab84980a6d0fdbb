"""LogGPT: a small GPT over template classes, refined so that what normally comes next is among its k predictions.

```
lines ─→ distinct (window, next) with counts ─┬─ fit ──────→ pretrain: next class ─→ refine: top-k reward ─→ weights
                                              └─ held out ─→ figures before ───────→ figures after
```

Source: Han, Yuan and Trabelsi, LogGPT: Log Anomaly Detection via GPT (IEEE BigData 2023), section III. There a line outside the top k is an
anomaly, and nothing orders the lines inside and outside; here the probability does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ClassVar, Final

import numpy as np
import torch

from models.deeplog import FIRST_TEMPLATE, UNKNOWN
from models.detectors.contract import (
    DIGITS,
    Bools,
    Corpus,
    Detector,
    Evidence,
    Float32,
    Int32,
    Int64,
    Learned,
    Report,
    Scores,
    Seen,
    quiet,
)
from models.detectors.deeplog import examples, is_judged
from models.detectors.distinct import DistinctRows
from models.detectors.gpt import GPT, Counted, Course, look, pretrain, refine, surprises
from models.detectors.words import quoted
from models.errors import DataSetError, SettingsError

_RAREST: Final = 6.0  # −log10 of the probability from which on all is as rare
_MIN_LINES: Final = 100
_HELD_OUT_RATIO: Final = 0.1  # of the sessions, where the corpus leaves it to the detector
_HELD_ROWS: Final = 8_192  # distinct windows that the held-out figures are taken on, at most
_CHUNK: Final = 64  # windows evaluated at once
_EXPECTED: Final = 5
_MAX_WIDTH: Final = 1024
_MAX_LAYERS: Final = 16


@dataclass(frozen=True)
class LogGPTParams:
    """The network, how it is taught, and how many predictions a line may be among.

    Attributes:
        width, heads, layers, dropout: the network.
        learning_rate, batch, epochs, min_steps, max_steps: pretraining; passes over the distinct windows, within the bounds.
        refine_learning_rate, refine_batch, refine_steps: refinement; with 0 steps the pretrained network stays.
        top_k_ratio, max_top_k: k as a share of the classes that can come next, and at most. Han et al. take half of them; of a dozen classes
            a third is enough for all that normally follows a line, and of a thousand a few dozens are.
        memo_entries: bound of the detector's memo, 4·h + 20 bytes each.
    """

    name: ClassVar[str] = "loggpt"
    is_heavy: ClassVar[bool] = True
    family: ClassVar[str] = "order"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    width: int = 64
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    learning_rate: float = 5e-3
    batch: int = 128
    epochs: int = 40
    min_steps: int = 150
    max_steps: int = 2_000
    refine_learning_rate: float = 1e-4
    refine_batch: int = 512
    refine_steps: int = 100
    top_k_ratio: float = 0.35
    max_top_k: int = 30
    memo_entries: int = 1 << 15

    def __post_init__(self) -> None:
        if not 0 < self.top_k_ratio < 1:
            raise SettingsError(f"loggpt's top_k_ratio is {self.top_k_ratio}; give a share above 0, below 1.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"loggpt's dropout is {self.dropout}; give a share of at least 0, below 1.")
        if self.refine_steps < 0:
            raise SettingsError(f"loggpt's refine_steps is {self.refine_steps}; give a number of at least 0.")
        sizes = ("width", "heads", "layers", "batch", "epochs", "min_steps", "max_steps", "refine_batch", "max_top_k")
        for name in (*sizes, "memo_entries", "learning_rate", "refine_learning_rate"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"loggpt's {name} is {getattr(self, name)}; give a number above 0.")
        if self.width > _MAX_WIDTH or self.layers > _MAX_LAYERS:
            raise SettingsError(
                f"loggpt's network is {self.width} wide and of {self.layers} layers; {_MAX_WIDTH} and {_MAX_LAYERS} are the most."
            )
        if self.width % self.heads:
            raise SettingsError(f"loggpt's width of {self.width} is no multiple of its {self.heads} heads.")

    def top_k(self, following: int) -> int:
        """How many of the classes that can come next are predicted; not all of them, unless there is one only.

        >>> [LogGPTParams().top_k(following) for following in (1, 2, 9, 1000)]
        [1, 1, 3, 30]
        """
        return max(1, min(round(self.top_k_ratio * following), self.max_top_k, following - 1))

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The network's weights, and how well it foresaw the held-out lines before and after refinement.

        A refinement that leaves more held-out lines outside the top k than before is not kept.

        Raises: DataSetError if there are too few lines.
        """
        if len(corpus) < _MIN_LINES:
            raise DataSetError(f"loggpt needs at least {_MIN_LINES} lines to learn from, and there are {len(corpus)}.")
        if corpus.is_held is None:
            corpus = replace(corpus, is_held=_held_out(corpus))
        data = examples(corpus)
        chance = torch.Generator().manual_seed(seed)
        taught = Counted.of(data.rows, data.fit_count)
        held = Counted.of(data.rows, data.held_count)
        held = held.take(torch.randperm(len(held), generator=chance)[:_HELD_ROWS])
        if not len(taught):
            raise DataSetError(f"loggpt needs lines of known templates to learn from, and none of {len(corpus)} is.")
        classes = data.end + 1
        top_k = self.top_k(classes - FIRST_TEMPLATE)
        size = min(self.batch, max(16, len(taught) // 16))
        steps = min(max(self.epochs * len(taught) // size, self.min_steps), self.max_steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = GPT(classes, corpus.length, self.width, self.heads, self.layers, self.dropout)
            course = Course(steps, size, self.learning_rate)
            pretrain(network, taught, held if len(held) else None, course, chance, partial(report, "pretraining"))
        refined = copy.deepcopy(network)
        course = Course(self.refine_steps, self.refine_batch, self.refine_learning_rate)
        refine(refined, taught, top_k, course, chance, partial(report, "refining"))
        before, after = (look(each, held, top_k) if len(held) else None for each in (network, refined))
        is_refined = before is None or after is None or after.outside_ratio <= before.outside_ratio
        weights = (refined if is_refined else network).state_dict()
        return Learned(
            {name: weight.numpy() for name, weight in weights.items()},
            {
                "length": corpus.length,
                "width": self.width,
                "heads": self.heads,
                "layers": self.layers,
                "top_k": top_k,
                "lines": len(corpus),
                "distinct_windows": len(data.rows),
                "steps": steps,
                "pretrained": asdict(before) if before is not None else None,
                "refined": asdict(after) if after is not None else None,
                "is_refined": is_refined,
            },
        )

    def build(self, learned: Learned, names: Sequence[str]) -> LogGPT:
        """The detector.

        Raises: ValueError if the weights do not fit the classes.
        """
        length, width, heads, layers, top_k = (
            int(learned.facts[name]) for name in ("length", "width", "heads", "layers", "top_k")
        )
        following = len(names) + 1 - FIRST_TEMPLATE
        sizes = (length, 255), (width, _MAX_WIDTH), (heads, width), (layers, _MAX_LAYERS), (top_k, following)
        if not all(1 <= size <= most for size, most in sizes) or width % heads:
            raise ValueError("loggpt's size or top-k is out of range")
        if not all(np.isfinite(array).all() for array in learned.arrays.values()):
            raise ValueError("one of loggpt's weights is not finite")
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and thrown away
            network = GPT(len(names) + 1, length, width, heads, layers)
        try:
            network.load_state_dict(
                {name: torch.from_numpy(np.array(array, np.float32)) for name, array in learned.arrays.items()}
            )
        except RuntimeError as error:
            raise ValueError(f"loggpt's weights do not fit the vocabulary: {error}") from error
        return LogGPT(network, top_k, names, self.memo_entries)


class LogGPT(Detector):
    """−log10 of the probability of what came, 6 at most, and 1 more outside the top k; 7 for an unknown template.

    Nothing is said of late lines, of a service's own sequence until its window is full, and of an end after an unknown line.

    State: none; a memo of at most `memo_entries`, whose loss changes no answer.

    Args:
        network: with its weights.
        top_k: predictions that a line may be among.
        names: as in `Corpus`.
        memo_entries: bound of the memo.
    """

    def __init__(self, network: GPT, top_k: int, names: Sequence[str], memo_entries: int) -> None:
        self._network = network
        self._top_k = top_k
        self._names = names
        self._rows = DistinctRows(self._evaluate, memo_entries)

    def step(self, seen: Seen) -> Scores:
        """The scores; new windows of lines and of ends are evaluated together."""
        line = np.full(len(seen), np.nan, np.float32)
        end = np.full(len(seen.ends), np.nan, np.float32)
        lines = np.flatnonzero(is_judged(seen))
        ends = np.flatnonzero(seen.ends.windows[:, -1] >= FIRST_TEMPLATE)
        following = np.concatenate((seen.code[lines], np.full(len(ends), len(self._names), np.int32)))
        score = self._rows.score(np.concatenate((seen.windows[lines], seen.ends.windows[ends])), following)
        line[lines], end[ends] = score[: len(lines)], score[len(lines) :]
        line[seen.code == UNKNOWN] = _RAREST + 1
        return Scores(line, end)

    def outside(self, seen: Seen) -> Bools:
        """Which lines the paper calls anomalous: those that are not among the top k, and those of an unknown template; `bool[N]`."""
        found: Bools = seen.code == UNKNOWN
        judged = np.flatnonzero(is_judged(seen) & ~found)
        rows, inverse = np.unique(
            np.column_stack((seen.windows[judged], seen.code[judged])), axis=0, return_inverse=True
        )
        found[judged] = (self._ranked(rows[:, :-1], rows[:, -1])[1] >= self._top_k)[inverse.ravel()]
        return found

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """What was expected at this place, and where in the order of expectation came what came."""
        window = (seen.ends.windows if is_end else seen.windows)[at]
        code = len(self._names) if is_end else int(seen.code[at])
        surprise, rank = self._ranked(window[None, :], np.array([max(code, FIRST_TEMPLATE)], np.int32))
        likeliest = np.argsort(surprise[0, :-1], kind="stable")[
            :_EXPECTED
        ]  # of the templates; the end is the last class
        expected = [(int(at) + FIRST_TEMPLATE, round(float(10.0 ** -surprise[0, at]), DIGITS)) for at in likeliest]
        likely = " or ".join(f"{quoted(self._names, known)} ({share:.1%})" for known, share in expected[:2])
        after = f"After {quoted(self._names, int(window[-1]))} and the lines before it, {likely} was expected;"
        if code == UNKNOWN:
            return Evidence(f"{after} a line came that is like none of those learned.", expected)
        came = "the session's end" if is_end else quoted(self._names, code)
        probability = 10.0 ** -float(surprise[0, code - FIRST_TEMPLATE])
        return Evidence(
            f"{after} {came} came, with a probability of {probability:.2g}, number {int(rank[0]) + 1} of the predictions, "
            f"of which the first {self._top_k} are normal.",
            expected,
        )

    def _evaluate(self, windows: Int32, following: Int32) -> Float32:
        """The score of distinct rows."""
        surprise, rank = self._ranked(windows, following)
        own = np.take_along_axis(surprise, following[:, None] - FIRST_TEMPLATE, axis=1)[:, 0]
        is_outside = rank >= self._top_k
        score: Float32 = np.minimum(own, np.float32(_RAREST)) + is_outside.astype(np.float32)
        return score

    def _ranked(self, windows: Int32, following: Int32) -> tuple[Float32, Int64]:
        """−log10 of the probability of all that can follow each window, and how many classes are likelier than what did.

        Of equally likely classes the lower counts as likelier.

        Shapes: `windows int32[D, h]`, `following int32[D]` → `float32[D, P]`, `int64[D]`.
        """
        distinct, inverse = np.unique(windows, axis=0, return_inverse=True)
        surprise = surprises(self._network, distinct, _CHUNK)[inverse.ravel()]  # [D, P]
        place = following[:, None] - FIRST_TEMPLATE  # [D, 1]
        own = np.take_along_axis(surprise, place, axis=1)  # [D, 1]
        is_before = np.arange(surprise.shape[1]) < place  # [D, P]
        return surprise, ((surprise < own) | ((surprise == own) & is_before)).sum(axis=1)


def _held_out(corpus: Corpus) -> Bools:
    """The lines of the last sessions by first line; a line without session stands for itself."""
    _, first, number = np.unique(corpus.column("key"), return_index=True, return_inverse=True)
    start = np.where(corpus.column("has_session"), first[number], np.arange(len(corpus)))
    starts = np.unique(start)
    is_held: Bools = start > starts[int((len(starts) - 1) * (1 - _HELD_OUT_RATIO))]
    return is_held
