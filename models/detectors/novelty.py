"""Novelty: a template that was never seen while learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from models.deeplog import UNKNOWN
from models.detectors.contract import Corpus, Detector, Evidence, Learned, Report, Scores, Seen, quiet


@dataclass(frozen=True)
class NoveltyParams:
    """Nothing to set."""

    name: ClassVar[str] = "novelty"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "text"
    is_fitted_once: ClassVar[bool] = False
    is_service_wide: ClassVar[bool] = False

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """How many lines were looked at; the templates themselves are the model's vocabulary."""
        return Learned(facts={"lines": len(corpus)})

    def build(self, learned: Learned, names: Sequence[str]) -> Novelty:
        """The detector."""
        return Novelty(int(learned.facts["lines"]))


class Novelty(Detector):
    """Score 1 for a template unknown to the model, else 0.

    Source: the oldest of all; Landauer et al., Deep Learning for Anomaly Detection in Log Data: A Survey (2023) and the same authors'
    A Critical Review of Common Log Data Sets (2023) show how far it alone reaches.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines

    def step(self, seen: Seen) -> Scores:
        """1 for lines of unknown templates; ends are never new."""
        return Scores((seen.code == UNKNOWN).astype(np.float32), np.full(len(seen.ends), np.nan, np.float32))

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """That nothing of the kind was among the lines learned."""
        return Evidence(f"No line like this was among the {self._lines:,} lines learned.")
