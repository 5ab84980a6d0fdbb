"""One artefact at work in one shard: the class of each of the shard's templates, and what the model thinks of lines and ends."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.artefact import Artefact
from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN, DeepLogScorer
from models.reference import TemplateReference
from models.templates import ShardTemplates, TemplateParams
from models.verdicts import Expected

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

_EXPECTED: Final = 5  # expected templates named in an anomaly


class Judge:
    """One artefact at work in one shard: its scorer, and the class of each template of the shard."""

    def __init__(self, artefact: Artefact, params: TemplateParams) -> None:
        self.artefact = artefact
        self.version = artefact.version
        self.wait_ms = np.array(artefact.wait_ms, np.int64)
        self.scorer: DeepLogScorer = artefact.scorer()
        self._classes = np.full(64, UNKNOWN, np.int32)
        self._known = 0
        self._vocabulary = {number: code for code, number in enumerate(artefact.vocabulary) if code >= FIRST_TEMPLATE}
        self._text = [artefact.text(code) for code in range(len(artefact.vocabulary))]
        self._reference = TemplateReference(artefact.templates, params)

    def expected(self, windows: I32) -> list[list[Expected]]:
        """The likeliest templates after each window; `windows` int32[B, h]."""
        vocabulary, text = self.artefact.vocabulary, self._text
        return [
            [Expected(vocabulary[code], text[code], likely) for code, likely in answer]
            for answer in self.scorer.expected_each(windows, _EXPECTED)
        ]

    def classes(self, templates: ShardTemplates) -> I32:
        """The class of each template by seq, and at the end the padding, which −1 picks; int32[K + 1].

        A template keeps the class that it had when it was made; its tokens may generalise later, its kin stays.
        """
        size = len(templates)
        if size + 1 > len(self._classes):
            self._classes = np.concatenate([self._classes, np.full(max(size, 64), UNKNOWN, np.int32)])
        for seq in range(self._known, size):
            number = int(templates.ids[seq])
            if number not in self._vocabulary:
                number = self._reference.match(templates.created(seq)) or number
            self._classes[seq] = self._vocabulary.get(number, UNKNOWN)
        self._known = size
        view = self._classes[: size + 1]
        view[size] = PADDING
        return view

    def score(self, windows: I32, following: I32, ends: I32) -> tuple[F32, I32, F32]:
        """What the model thinks of lines, and of sessions that stopped; new windows of both are evaluated together.

        Shapes: `windows int32[B, h]`, `following int32[B]`, `ends int32[E, h]` → probability `float32[B]`, rank `int32[B]`,
        probability of the end `float32[E]`.
        """
        both = np.concatenate((windows, ends))
        asked = np.concatenate((following, np.full(len(ends), self.scorer.end, np.int32)))
        probability, rank = self.scorer.score(both, asked)
        count = len(windows)
        return probability[:count], rank[:count], probability[count:]
