"""Autoencoder: a line whose text is far from what the texts before it let expect, or whose words are not those of normal lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import (
    DIGITS,
    Bools,
    Corpus,
    Evidence,
    Float32,
    Int32,
    Learned,
    Report,
    Scores,
    Seen,
    quiet,
)
from models.detectors.distinct import DistinctRows
from models.detectors.next_code import NextCodes, fit_next
from models.detectors.rolling import Rolling, RollingParams
from models.detectors.rows import DetectorWithRows, mix
from models.detectors.text_codes import TextCodes, fit_codes, vocabulary, words_of
from models.detectors.texts import TextParams, normal_texts
from models.detectors.words import shortened
from models.errors import DataSetError, SettingsError

_TEXT, _NEXT = "text.", "next."  # before the names of the two networks' weights
_HELD_RATIO: Final = 0.2  # of the lines, the last ones, that say what an error is
_LEAST_DEVIATION: Final = 0.05  # of errors, whose unit is the mean distance between texts
_LEAST_SURPRISE: Final = 0.1  # nats a word, as a deviation
_MOST_SURPRISE: Final = 100.0  # deviations


@dataclass(frozen=True)
class AutoencoderParams:
    """The two networks, how they are fitted, and how the errors of a service are followed.

    Attributes:
        max_words: words known at most, the most frequent ones.
        max_texts: distinct texts learned from at most.
        code: numbers in the code of a text.
        hidden: size of each LSTM.
        text_steps, next_steps: of the optimiser, at most.
        max_rows: distinct (window, next) rows learned from at most.
        min_lines: fewer lines than this teach nothing.
        prior_lines, half_life_min, max_services: see `RollingParams`.
    """

    name: ClassVar[str] = "autoencoder"
    is_heavy: ClassVar[bool] = True
    family: ClassVar[str] = "text"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    max_words: int = 5_000
    max_texts: int = 2_000
    code: int = 32
    hidden: int = 64
    text_steps: int = 1_000
    next_steps: int = 1_000
    max_rows: int = 100_000
    min_lines: int = 200
    prior_lines: float = 1_000.0
    half_life_min: float = 60.0
    max_services: int = 20_000

    def __post_init__(self) -> None:
        for name in ("max_words", "max_texts", "code", "hidden", "text_steps", "next_steps", "max_rows", "min_lines"):
            if getattr(self, name) < 1:
                raise SettingsError(f"autoencoder: {name} is {getattr(self, name)}; it must be at least 1.")
        if self.prior_lines <= 0 or self.half_life_min <= 0 or self.max_services < 1:
            raise SettingsError("autoencoder: prior_lines, half_life_min and max_services must be above 0.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """Texts, their codes, the code that comes next, and how far off that is on the last fifth of the lines.

        Raises: DataSetError if fewer than `min_lines` lines have a template and their lines before.
        """
        rows, fit_count, held_count = self._rows(corpus)
        texts = [*filter(None, corpus.names), *normal_texts(corpus, TextParams(learned_texts=self.max_texts)).texts]
        texts = list(dict.fromkeys(texts))[: max(self.max_texts, len(corpus.names))]
        words = vocabulary(texts, self.max_words)
        text_weights = fit_codes(
            texts,
            words,
            hidden=self.hidden,
            code=self.code,
            max_steps=self.text_steps,
            seed=seed,
            report=lambda done, loss: report("text autoencoder", 0.5 * done, loss),
        )
        codes = TextCodes(words, text_weights)
        raw, surprise = codes.rebuild(texts)
        scale = _Scale.of(raw)
        table = _table(codes, scale, corpus.names)
        next_weights = fit_next(
            rows,
            fit_count,
            held_count,
            table,
            hidden=self.hidden,
            max_steps=self.next_steps,
            seed=seed,
            report=lambda done, loss: report("codes of the lines that follow", 0.5 + 0.5 * done, loss),
        )
        held = np.flatnonzero(held_count)
        error = _errors(*NextCodes(table, next_weights).predict(rows[held, :-1]), table[rows[held, -1]])
        every = np.sort(np.repeat(error, held_count[held]))
        arrays: dict[str, npt.NDArray[Any]] = {
            "words": np.frombuffer("\n".join(words).encode(), np.uint8),
            "centre": scale.centre,
            **{_TEXT + name: array for name, array in text_weights.items()},
            **{_NEXT + name: array for name, array in next_weights.items()},
        }
        facts = {
            "scale": scale.size,
            "error_mean": round(float(every.mean()), DIGITS),
            "error_deviation": round(max(float(every.std()), _LEAST_DEVIATION), DIGITS),
            "error_most": round(float(every[int(0.99 * (len(every) - 1))]), DIGITS),
            "surprise_mean": round(float(surprise.mean()), DIGITS),
            "surprise_deviation": round(max(float(surprise.std()), _LEAST_SURPRISE), DIGITS),
        }
        return Learned(arrays, facts)

    def build(self, learned: Learned, names: Sequence[str]) -> Autoencoder:
        """The detector.

        Raises: ValueError if what was learned does not hold together.
        """
        return Autoencoder(self, learned, names)

    def _rows(self, corpus: Corpus) -> tuple[Int32, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The distinct (window, next) rows, and how often each is learned from and held out."""
        parts = [np.zeros((0, corpus.length + 1), np.int32)]
        for seen in corpus.batches:
            taught = np.flatnonzero(_has_window(seen) & (seen.code != UNKNOWN))
            parts.append(np.column_stack((seen.windows[taught], seen.code[taught])))
        every = np.concatenate(parts)
        if len(every) < self.min_lines:
            raise DataSetError(
                f"autoencoder: {len(every)} lines with their lines before; at least {self.min_lines} are needed."
            )
        _, place, inverse, count = np.unique(mix(*every.T), return_index=True, return_inverse=True, return_counts=True)
        is_held = np.arange(len(every)) >= int(len(every) * (1 - _HELD_RATIO))
        held_count = np.bincount(inverse.ravel()[is_held], minlength=len(place))
        kept = np.sort(np.argsort(-count, kind="stable")[: self.max_rows])
        return every[place[kept]], (count - held_count)[kept], held_count[kept]


class Autoencoder(DetectorWithRows):
    """Score: by how many deviations the distance between a line's code and the predicted one exceeds what the service's distances have been lately.

    The code of a line is that of its template, or of its own text if the template is unknown; to an unknown line is added by how many
    deviations its words are worse rebuilt than those of normal texts. Late lines, and lines without session whose window is not full, are
    judged by their words only, and not at all if their template is known. Ends have no text.

    State: see rolling.py.

    Source: Bursic, Cuculo, D'Amelio, Anomaly Detection from Log Files Using Unsupervised Deep Learning (FM 2019 workshops).
    """

    def __init__(self, params: AutoencoderParams, learned: Learned, names: Sequence[str]) -> None:
        arrays, facts = learned.arrays, learned.facts
        words = bytes(np.asarray(arrays["words"], np.uint8)).decode().split("\n")
        self._names = names
        self._codes = TextCodes(words, _part(arrays, _TEXT))
        self._words = frozenset(words)
        self._scale = _Scale(np.asarray(arrays["centre"], np.float32), float(facts["scale"]))
        self._table = _table(self._codes, self._scale, names)
        self._next = NextCodes(self._table, _part(arrays, _NEXT))
        self._surprise = float(facts["surprise_mean"]), float(facts["surprise_deviation"])
        self._rolling = Rolling(
            RollingParams(
                float(facts["error_mean"]),
                float(facts["error_deviation"]),
                float(facts["error_most"]),
                params.prior_lines,
                params.half_life_min,
                params.max_services,
            )
        )
        self._rows = self._rolling.rows
        self._scores = DistinctRows(lambda windows, code: _errors(*self._next.predict(windows), self._table[code]))
        self._last = np.zeros((4, 0))

    def step(self, seen: Seen) -> Scores:
        """The scores; each service's mean and deviation move on."""
        error, surprise = self._errors(seen)
        mean, deviation = np.full(len(seen), np.nan), np.full(len(seen), np.nan)
        judged = np.flatnonzero(~np.isnan(error))
        mean[judged], deviation[judged] = self._rolling.step(seen.service[judged], seen.now[judged], error[judged])
        self._last = np.stack((error, surprise, mean, deviation))
        score = np.where(np.isnan(error), surprise, (error - mean) / deviation + np.nan_to_num(surprise))
        return Scores(score.round(DIGITS).astype(np.float32), np.full(len(seen.ends), np.nan, np.float32))

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """How far off the line is, and what was expected or is nearest."""
        if is_end:
            return Evidence("The end of a session has no text to judge.")
        error, surprise, mean, deviation = self._last[:, at].tolist()
        said, nearest, differing = [], None, []
        if not np.isnan(error):
            expected = self._nearest(self._next.predict(seen.windows[at][None, :])[0][0])
            said.append(
                f"its text lies {error:.1f} spreads from what the lines before let expect, where {mean:.1f} ± {deviation:.1f} is usual; "
                f"nearest to that is “{shortened(expected)}”"
            )
        if not np.isnan(surprise):
            text = seen.texts[int(seen.text[at])]
            nearest = self._nearest(self._scale.apply(self._codes.encode([text]))[0])
            known = set(words_of(nearest))
            differing = [word for word in words_of(text) if word not in known]
            new = sum(word not in self._words for word in words_of(text))
            said.append(
                f"its words are rebuilt {surprise:.1f} deviations worse than those of normal lines, {new} of them never seen"
            )
        if not said:
            said.append("there is nothing to judge it by")
        sentence = "; ".join(said)
        return Evidence(f"{sentence[0].upper()}{sentence[1:]}.", nearest=nearest, differing=differing)

    def drop(self, service: int) -> None:
        """Forget a service: it is the key of its row."""
        self._rolling.drop(service)

    def _errors(self, seen: Seen) -> tuple[Float32, Float32]:
        """The distance of each line from the prediction, and how badly an unknown line's words are rebuilt, in deviations; NaN where not judged."""
        error, surprise = np.full(len(seen), np.nan, np.float32), np.full(len(seen), np.nan, np.float32)
        has_window, is_new = _has_window(seen), seen.code < FIRST_TEMPLATE
        known = np.flatnonzero(has_window & ~is_new)
        error[known] = self._scores.score(seen.windows[known], seen.code[known])
        new = np.flatnonzero(is_new)
        if len(new):
            distinct, which = np.unique(seen.text[new], return_inverse=True)
            raw, nats = self._codes.rebuild([seen.texts[at] for at in distinct.tolist()])
            mean, deviation = self._surprise
            surprise[new] = np.clip((nats - mean) / deviation, 0, _MOST_SURPRISE)[which]
            placed = has_window[new]
            windows, inverse = np.unique(seen.windows[new[placed]], axis=0, return_inverse=True)
            predicted, spread = self._next.predict(windows)
            at = inverse.ravel()
            found = _errors(predicted[at], spread[at], self._scale.apply(raw)[which[placed]])
            error[new[placed]] = found.round(DIGITS)
        return error, surprise

    def _nearest(self, code: Float32) -> str:
        """The template whose code is nearest."""
        distance = np.square(self._table[FIRST_TEMPLATE:] - code).sum(axis=1)
        return self._names[FIRST_TEMPLATE + int(distance.argmin())]


@dataclass(frozen=True, eq=False)
class _Scale:
    """Moves and stretches codes so that the mean distance of texts from their centre is 1; `centre float32[K]`."""

    centre: Float32
    size: float

    @classmethod
    def of(cls, codes: Float32) -> _Scale:
        centre = codes.mean(axis=0)
        return cls(centre, max(float(np.sqrt(np.square(codes - centre).mean())), 1e-3))

    def apply(self, codes: Float32) -> Float32:
        scaled: Float32 = ((codes - self.centre) / np.float32(self.size)).astype(np.float32)
        return scaled


def _table(codes: TextCodes, scale: _Scale, names: Sequence[str]) -> Float32:
    """The code of each class; 0 for padding and unknown."""
    table = np.zeros((len(names), codes.size), np.float32)
    table[FIRST_TEMPLATE:] = scale.apply(codes.encode(names[FIRST_TEMPLATE:]))
    return table


def _errors(predicted: Float32, spread: Float32, codes: Float32) -> Float32:
    """The distance (root mean square) of each code from the predicted one, in units of the spread foretold for it; `float32[D]`."""
    found: Float32 = np.sqrt(np.square(predicted - codes).mean(axis=1)) / spread
    return found


def _has_window(seen: Seen) -> Bools:
    """Which lines have their lines before them."""
    found: Bools = ~seen.is_late & (seen.has_session | (seen.windows[:, 0] != PADDING))
    return found


def _part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
