"""One artefact at work in one shard: the class of each of the shard's templates, its detectors, and what they make of lines and ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.artefact import Artefact
from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import Evidence, Seen
from models.detectors.registry import REGISTRY
from models.fusion import Fusion, FusionParams
from models.patterns import slots
from models.reference import TemplateReference
from models.templates import ShardTemplates, TemplateParams

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

_VOICES: Final = 2  # detectors whose reasons are told
_SPEAKS: Final = 2.0  # evidence from which on a detector's reason is worth telling


@dataclass(frozen=True, slots=True)
class Judged:
    """What the detectors made of a batch.

    Shapes: `line float32[N, D]` and `end float32[E, D]` evidence by detector, `line_weight float32[2, N]` and
    `end_weight float32[2, E]` as `Fusion.weight` gives them.
    """

    seen: Seen
    line: Float32
    end: Float32
    line_weight: Float32
    end_weight: Float32


class Judge:
    """One artefact at work in one shard, with its detectors that judge every line.

    State: that of its detectors.
    """

    def __init__(self, artefact: Artefact, params: TemplateParams, fusion: FusionParams) -> None:
        self.artefact = artefact
        self.version = artefact.version
        self.wait_ms = np.array(artefact.wait_ms, np.int64)
        self.fusion = Fusion(artefact.calibration, fusion, is_heavy=False)  # the heavy ones: second_opinion.py
        self._is_wide = [REGISTRY[name].is_service_wide for name in self.fusion.names]
        self.slots = slots(self.fusion.names)
        self.detectors = {name: artefact.build(name) for name in self.fusion.names}
        self._classes = np.full(64, UNKNOWN, np.int32)
        self._known = 0
        self._vocabulary = {number: code for code, number in enumerate(artefact.vocabulary) if code >= FIRST_TEMPLATE}
        self._reference = TemplateReference(artefact.templates, params)

    def classes(self, templates: ShardTemplates) -> Int32:
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

    def step(self, seen: Seen) -> Judged:
        """Evidence and weight of each line and end; the detectors' state moves on."""
        scores = {name: detector.step(seen) for name, detector in self.detectors.items()}
        line, end = self.fusion.evidence(scores)
        return Judged(seen, line, end, self.fusion.weight(line), self.fusion.weight(end))

    def reasons(self, judged: Judged, at: int, *, is_end: bool, is_wide: bool) -> list[Evidence]:
        """Why, by the detectors with the most evidence at this line or end, the strongest first; `is_wide`: for the service as a whole."""
        evidence = (judged.end if is_end else judged.line)[at]
        order = [place for place in np.argsort(-evidence, kind="stable").tolist() if self._is_wide[place] == is_wide]
        names = [self.fusion.names[place] for place in order if evidence[place] >= _SPEAKS]
        names = names[:_VOICES] or [self.fusion.names[order[0]]]
        return [self.detectors[name].explain(judged.seen, at, is_end=is_end) for name in names]

    def votes(self, judged: Judged, at: int, *, is_end: bool) -> dict[str, float]:
        """The evidence of each detector at this line or end."""
        evidence = (judged.end if is_end else judged.line)[at]
        return {name: round(float(value), 3) for name, value in zip(self.fusion.names, evidence.tolist(), strict=True)}

    # ---- state of the detectors

    def touched(self) -> dict[str, bytes]:
        """What changed since the last call, by detector; those without are left out."""
        found = {name: detector.touched() for name, detector in self.detectors.items()}
        return {name: data for name, data in found.items() if data}

    def to_bytes(self) -> dict[str, bytes]:
        """All state, by detector."""
        found = {name: detector.to_bytes() for name, detector in self.detectors.items()}
        return {name: data for name, data in found.items() if data}

    def apply(self, state: Mapping[str, bytes]) -> None:
        """Put in what `to_bytes` or `touched` gave; the state of a detector that is off now is left out."""
        for name, data in state.items():
            if name in self.detectors:
                self.detectors[name].apply(data)

    def drop(self, service: int) -> None:
        """Forget a service, by its key."""
        for detector in self.detectors.values():
            detector.drop(service)
