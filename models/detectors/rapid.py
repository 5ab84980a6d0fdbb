"""RAPID: how far a text is from the nearest normal text, token by token."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import Corpus, Evidence, Float32, Int64, Learned, Report, Seen, quiet
from models.detectors.texts import TextDetector, TextParams, normal_texts
from models.embedding import VECTOR_DIGITS, Encoder, load, recall
from models.errors import SettingsError

_LEVELS: Final = ("token", "sentence")
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BII")  # version, texts, width of their vectors
_SIZE: Final = struct.Struct("<I")
_TOKENS_KEPT: Final = 1_000  # token vectors of normal texts in memory: 40 KB each for 25 tokens of 384 numbers


@dataclass(frozen=True)
class RapidParams(TextParams):
    """What is kept of the normal texts and how a text is compared with them.

    Attributes:
        level: `token` compares token by token, `sentence` by the sentence vectors alone (their figures differ: see the paper's ablation).
        neighbours: normal texts, nearest by sentence vector, that are compared token by token.
        core_texts: normal texts kept at most.
        added_texts: texts that may join later, by `Rapid.add`; then the oldest of them leaves.
    """

    name: ClassVar[str] = "rapid"
    is_heavy: ClassVar[bool] = True
    family: ClassVar[str] = "text"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    level: str = "token"
    neighbours: int = 8
    core_texts: int = 2_000
    added_texts: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in _LEVELS:
            raise SettingsError(f"level is {self.level!r}; choose {' or '.join(_LEVELS)}.")
        for name in ("neighbours", "core_texts", "added_texts"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The core set: normal texts that cover all of them, with their sentence vectors; nothing is left to chance."""
        normal = normal_texts(corpus, self)
        encoder = load(self.embedding)
        vectors = encoder.sentences(normal.texts, lambda done: report("embedding normal texts", done, None))
        core = cover(vectors, self.core_texts)
        report("embedding normal texts", 1.0, None)
        arrays: dict[str, npt.NDArray[Any]] = {
            "sentences": vectors[core].astype(np.float16),
            "counts": normal.counts[core],
            "varied": normal.varied,
        }
        facts = {
            "embedding": encoder.about(),
            "texts": len(normal.texts),
            "core": [normal.texts[at] for at in core.tolist()],
        }
        return Learned(arrays, facts)

    def build(self, learned: Learned, names: Sequence[str]) -> Rapid:
        """The detector."""
        return Rapid(self, learned, names, recall(learned.facts["embedding"]))


def cover(vectors: Float32, size: int) -> npt.NDArray[np.intp]:
    """Which rows to keep so that every row is near a kept one: the first, then always the row farthest from those kept.

    Shapes: unit vectors `[K, D]` → `intp[min(K, size)]`, ascending.
    Source: Gonzalez, Clustering to Minimize the Maximum Intercluster Distance (1985); as core set: Sener and Savarese (ICLR 2018), algorithm 1.

    >>> cover(np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32), 2).tolist()
    [0, 2]
    """
    if len(vectors) <= size:
        return np.arange(len(vectors))
    kept = [0]
    nearest = np.round(vectors @ vectors[0], VECTOR_DIGITS)
    while len(kept) < size:
        kept.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, np.round(vectors @ vectors[kept[-1]], VECTOR_DIGITS))
    return np.unique(kept)


class Rapid(TextDetector):
    """Score of a text: its distance to the nearest normal text; 0 for a text of the core set.

    Among the `neighbours` nearest core texts by sentence vector, the smallest mean over the text's tokens of one minus the largest cosine to a token of
    the core text. Words that the neighbour lacks make the score, wherever they stand; words left out do not.

    Source: No, Lee, Kang and Kang, RAPID: Training-free Retrieval-based Log Anomaly Detection with PLM considering Token-level information (2023),
    section 3 (core set, then token-level distance). There a sequence of lines is one text and the core set is drawn for each query; here
    a line is one text, and known texts cost nothing.

    State: texts that joined later, at most `added_texts`, with their vectors. A memo of token vectors of core texts, at most 1,000.
    """

    def __init__(self, params: RapidParams, learned: Learned, names: Sequence[str], encoder: Encoder) -> None:
        super().__init__(names, learned.arrays["varied"], params.memo_texts)
        core, sentences = learned.facts["core"], learned.arrays["sentences"]
        if not core or sentences.shape != (len(core), encoder.width):
            raise ValueError(f"{len(core)} core texts of width {encoder.width}, but vectors of shape {sentences.shape}")
        self._params = params
        self._encoder = encoder
        self._core: list[str] = list(core)
        self._counts: Int64 = learned.arrays["counts"]
        self._learned_vectors: Float32 = sentences.astype(np.float32)
        self._vectors = self._learned_vectors
        self._added: deque[tuple[str, npt.NDArray[np.float16]]] = deque()
        self._fresh: list[tuple[str, npt.NDArray[np.float16]]] = []
        self._known = set(self._core)
        self._tokens = lru_cache(maxsize=_TOKENS_KEPT)(lambda text: encoder.encode(text).tokens)

    def score_texts(self, texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        """The distance of each text to the nearest core text."""
        return np.array([0.0 if text in self._known else self._nearest(text)[0] for text in texts])

    def add(self, text: str) -> None:
        """From now on this text is normal, as if it had been learned; no effect if it is known."""
        if text not in self._known:
            entry = (text, self._encoder.encode(text).sentence.astype(np.float16))
            self._join([entry])
            self._fresh.append(entry)

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """The nearest normal text, and the words it lacks."""
        text = self.text_at(seen, at)
        if text in self._known:
            return Evidence(f"This text is one of the {len(self._known):,} normal texts kept.", nearest=text)
        distance, row = self._nearest(text)
        nearest = self._texts()[row]
        known = set(nearest.split())
        differing = [word for word in dict.fromkeys(text.split()) if word not in known]
        told = f", which {self._counts[row]:,} lines had while learning" if row < len(self._core) else ""
        lacking = f"; it lacks {' '.join(differing)}" if differing else ""
        return Evidence(
            f"Distance {distance:.2f} from the nearest normal text{told}: {nearest}{lacking}.".replace("\n", " "),
            nearest=nearest,
            differing=differing,
        )

    def touched(self) -> bytes:
        """The texts that joined since the last call."""
        fresh, self._fresh = self._fresh, []
        return _encode(fresh, self._encoder.width) if fresh else b""

    def to_bytes(self) -> bytes:
        """All texts that joined."""
        return _encode(self._added, self._encoder.width) if self._added else b""

    def apply(self, data: bytes) -> None:
        """Let the texts join again, the oldest first."""
        if data:
            self._join([entry for entry in _decode(data, self._encoder.width) if entry[0] not in self._known])

    def check(self) -> None:
        """Raise AssertionError unless texts and vectors agree and the bounds hold."""
        super().check()
        assert len(self._added) <= self._params.added_texts
        assert len(self._vectors) == len(self._core) + len(self._added) == len(self._known)

    def _join(self, entries: Sequence[tuple[str, npt.NDArray[np.float16]]]) -> None:
        self._added.extend(entries)
        while len(self._added) > self._params.added_texts:
            self._added.popleft()
        self._known = {*self._core, *(text for text, _ in self._added)}
        vectors = [vector.astype(np.float32)[None, :] for _, vector in self._added]
        self._vectors = np.concatenate([self._learned_vectors, *vectors])
        self.drop_memo()  # what is normal now may be nearer to any text

    def _texts(self) -> list[str]:
        return [*self._core, *(text for text, _ in self._added)]

    def _nearest(self, text: str) -> tuple[float, int]:
        """The distance to the nearest core text, and its row; of equally near ones the first."""
        embedded = self._encoder.encode(text)
        cosine = np.round(self._vectors @ embedded.sentence, VECTOR_DIGITS)  # [K]
        rows = np.argsort(-cosine, kind="stable")[: self._params.neighbours].tolist()
        if self._params.level == "sentence":
            return max(0.0, 1.0 - float(cosine[rows[0]])), rows[0]
        texts = self._texts()
        distances = [
            (round(1.0 - float((embedded.tokens @ self._tokens(texts[row]).T).max(axis=1).mean()), VECTOR_DIGITS), row)
            for row in rows
        ]
        distance, row = min(distances, key=lambda found: found[0])
        return max(0.0, distance), row


def _encode(entries: Sequence[tuple[str, npt.NDArray[np.float16]]] | deque[Any], width: int) -> bytes:
    """`u8 version · u32 texts · u32 width`, then for each text `u32 bytes · UTF-8 · f16 vector[width]`, little endian."""
    parts = [_HEAD.pack(_VERSION, len(entries), width)]
    for text, vector in entries:
        data = text.encode("utf-8", "surrogatepass")
        parts += [_SIZE.pack(len(data)), data, vector.astype("<f2").tobytes()]
    return b"".join(parts)


def _decode(data: bytes, width: int) -> list[tuple[str, npt.NDArray[np.float16]]]:
    version, count, stored = _HEAD.unpack_from(data)
    if version != _VERSION or stored != width:
        raise ValueError(
            f"rapid's state of version {version} with vectors {stored} wide, this program reads version {_VERSION} and "
            f"{width}: see CHANGELOG.md for the migration"
        )
    at, entries = _HEAD.size, []
    for _ in range(count):
        (size,) = _SIZE.unpack_from(data, at)
        text = data[at + _SIZE.size : at + _SIZE.size + size].decode("utf-8", "surrogatepass")
        at += _SIZE.size + size
        entries.append((text, np.frombuffer(data, "<f2", width, at).astype(np.float16)))
        at += 2 * width
    return entries
