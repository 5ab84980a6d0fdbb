"""What the detectors of single texts share: the distinct normal texts to learn from, and scores by text instead of by line.

A text is the masked text of a line. A template whose masked texts were too many while learning (a free word in the middle) is judged by the
template itself, once; otherwise each user's name would be a text of its own. Which templates those are is learned, so it depends on nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from models.deeplog import FIRST_TEMPLATE
from models.detectors.contract import DIGITS, Bools, Corpus, Detector, Float32, Int32, Int64, Scores, Seen
from models.embedding import AUTO
from models.errors import DataSetError, SettingsError


@dataclass(frozen=True)
class TextParams:
    """The settings of a detector of single texts.

    Attributes:
        embedding: the sentence model to learn with: `auto`, `all-MiniLM-L6-v2`, `hashed`, a package or a folder (models/embedding.py).
        learned_texts: distinct texts learned from at most, the most frequent first; a model of 22 million parameters takes 10 to 20 ms for each.
        texts_per_class: a template with more distinct texts than this is judged by the template.
        memo_texts: bound of the memo of scores by text.
    """

    embedding: str = AUTO
    learned_texts: int = 4_000
    texts_per_class: int = 50
    memo_texts: int = 20_000

    def __post_init__(self) -> None:
        if not self.embedding:
            raise SettingsError(f"embedding is empty; name a sentence model, or {AUTO!r}.")
        for name in ("learned_texts", "texts_per_class", "memo_texts"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class NormalTexts:
    """The distinct normal texts, the most frequent first, ties by text.

    Shapes: `counts int64[K]` lines of each; `varied int32[V]` the classes judged by their template.
    """

    texts: Sequence[str]
    counts: Int64
    varied: Int32


def normal_texts(corpus: Corpus, params: TextParams) -> NormalTexts:
    """The texts to learn from; lines held out are left out, so that their scores are those of lines not learned.

    Raises: DataSetError if there is no line.
    """
    by_class: defaultdict[int, Counter[str]] = defaultdict(Counter)
    is_held = np.zeros(len(corpus), np.bool_) if corpus.is_held is None else corpus.is_held
    start = 0
    for batch in corpus.batches:
        is_taught = ~is_held[start : start + len(batch)]
        start += len(batch)
        pairs, counts = np.unique((batch.code.astype(np.int64) << 32 | batch.text)[is_taught], return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            by_class[pair >> 32][batch.texts[pair & 0xFFFFFFFF]] += count
    if not by_class:
        raise DataSetError("at least 1 normal line is needed to learn its text; there were 0.")
    total: Counter[str] = Counter()
    varied = []
    for code, texts in sorted(by_class.items()):
        if code >= FIRST_TEMPLATE and len(texts) > params.texts_per_class:
            varied.append(code)
            total[corpus.names[code]] += texts.total()
        else:
            total.update(texts)
    ordered = sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[: params.learned_texts]
    texts_kept, counts_kept = zip(*ordered, strict=True)
    return NormalTexts(list(texts_kept), np.array(counts_kept, np.int64), np.array(varied, np.int32))


class TextDetector(Detector):
    """Scores lines by their text, each distinct text once; ends get none.

    State: a memo of at most `entries` scores; dropping it changes no answer.

    Args:
        names: template text by class.
        varied: the classes judged by their template.
        entries: bound of the memo.
    """

    def __init__(self, names: Sequence[str], varied: Int32, entries: int) -> None:
        if len(varied) and int(varied.max()) >= len(names):
            raise ValueError(f"class {int(varied.max())} was learned, but the model has {len(names)} classes only")
        self._names = names
        self._is_varied: Bools = np.zeros(len(names), np.bool_)
        self._is_varied[varied] = True
        self._entries = entries
        self._memo: dict[str, float] = {}

    @abstractmethod
    def score_texts(self, texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        """How strange each of these distinct texts is, `float[B]`."""

    def step(self, seen: Seen) -> Scores:
        """The scores of the lines' texts."""
        scores = Scores.silent(seen)
        is_varied = self._is_varied[seen.code]
        scores.line[~is_varied] = self._scores(seen.text[~is_varied], seen.texts)
        scores.line[is_varied] = self._scores(seen.code[is_varied], self._names)
        return scores

    def text_at(self, seen: Seen, at: int) -> str:
        """The text that line `at` is judged by."""
        code = int(seen.code[at])
        return self._names[code] if self._is_varied[code] else seen.texts[int(seen.text[at])]

    def drop_memo(self) -> None:
        """Forget the scores; changes no answer."""
        self._memo = {}

    def check(self) -> None:
        """Raise AssertionError unless the memo is within its bound."""
        assert len(self._memo) <= self._entries

    def _scores(self, place: Int32, texts: Sequence[str]) -> Float32:
        """The scores of `texts[place]`; `int32[N]` → `float32[N]`."""
        is_used = np.zeros(len(texts), np.bool_)
        is_used[place] = True
        used = np.flatnonzero(is_used)
        scores: Float32 = np.zeros(len(texts), np.float32)
        scores[used] = self._remembered([texts[at] for at in used.tolist()])
        return scores[place]

    def _remembered(self, texts: Sequence[str]) -> list[float]:
        memo = self._memo
        missing = [text for text in texts if text not in memo]
        if missing:
            scores = np.round(self.score_texts(missing).astype(np.float64), DIGITS)
            memo.update(zip(missing, scores.tolist(), strict=True))
        found = [memo[text] for text in texts]
        for text in list(islice(memo, max(0, len(memo) - self._entries))):  # the oldest
            del memo[text]
        return found
