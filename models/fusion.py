"""Fusion: the detectors' scores against their normal ones become one verdict, by a budget of false alerts a day.

```
scores ─ conformal (conformal.py) ─→ evidence by detector ─ half the strongest, half the mean of a family ─→ families add up ─→ weight of a line
weights of a session or service ─ incidents.py ─→ strength ≥ threshold ─→ an anomaly
normal lines, judged by detectors that had not learned them ─→ peaks of strength ─ exponential tail, budget ─→ threshold
```

Detectors of one family look at the same thing and fail together, so they share one voice; families look at different things (the order of lines,
their text, how many there are, the numbers in them), so their evidence adds up, as in Fisher's method for independent tests. What is still dependent is
taken into account by calibration: the threshold is chosen on the strengths that normal lines reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.conformal import NormalScores
from models.detectors.contract import Scores
from models.detectors.registry import REGISTRY
from models.errors import SettingsError
from models.incidents import IncidentParams, Suspects, peaks

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SUSPECT: Final = 1.0  # a line below this weight is no evidence of anything
_WIDE: Final = 0x9E3779B97F4A7C15  # tells a service's own incidents from those of its lines without session
_USUAL: Final = 1.5  # evidence that one normal session of thirty has is none …
_USUAL_ALONE: Final = 1.0  # … and of ten, where one family votes alone and no noise of others adds to it
_TAIL_FEW: Final = 10  # peaks that the tail is fitted to at least, where there are so many …
_TAIL_RATIO: Final = 0.05  # … and at most this share
_PRIOR_EXCESS: Final = 2.5  # mean excess assumed before any peak is seen …
_PRIOR_PEAKS: Final = 3.0  # … which weighs as many peaks
_MIN_THRESHOLD: Final = SUSPECT  # nothing weaker is told, however large the budget


@dataclass(frozen=True)
class FusionParams:
    """How evidence becomes a verdict.

    Attributes:
        budget_per_day: false alerts a day, of event time, that all services together may raise; each model has an equal share of it.
        shares: models among which the budget is shared.
        detectors: those that vote; None for all that the model has.
        incidents: what counts as one incident.
    """

    budget_per_day: float = 5.0
    shares: int = 1
    detectors: tuple[str, ...] | None = None
    incidents: IncidentParams = field(default_factory=IncidentParams)

    def __post_init__(self) -> None:
        if not 0 < self.budget_per_day <= 10_000:
            raise SettingsError(
                f"budget_per_day is {self.budget_per_day}; give the false alerts a day that you can live with, above 0."
            )


@dataclass(frozen=True, eq=False)
class Calibration:
    """What normal lines look like to the detectors of one model.

    Attributes:
        names: the detectors, in the order of the columns of `evidence`.
        families: of each.
        line, end: normal scores of lines and of ends, by detector.
        evidence: `float32[S, D]` of normal lines that carried some.
        suspects: the same lines; `weight` is not used.
        days: days of event time the lines span, times the services they are of.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    line: Mapping[str, NormalScores]
    end: Mapping[str, NormalScores]
    evidence: Float32
    suspects: Suspects
    days: float

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it as arrays, for the artefact."""
        found: dict[str, npt.NDArray[Any]] = {
            "evidence": self.evidence,
            "key": self.suspects.key.view(np.int64),
            "service": self.suspects.service.view(np.int64),
            "piece": self.suspects.piece,
            "now": self.suspects.now,
            "has_session": self.suspects.has_session.astype(np.uint8),
            "days": np.array([self.days]),
        }
        for kind, tables in (("line", self.line), ("end", self.end)):
            for name, table in tables.items():
                found.update({f"{kind}.{name}.{part}": array for part, array in table.arrays().items()})
        return found

    @classmethod
    def from_arrays(
        cls, names: Sequence[str], families: Sequence[str], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> Calibration:
        """The inverse of `arrays`.

        Raises: ValueError, KeyError if they do not hold together.
        """
        tables: dict[str, dict[str, NormalScores]] = {"line": {}, "end": {}}
        for kind, by_name in tables.items():
            for name in names:
                parts = {part: arrays[f"{kind}.{name}.{part}"] for part in ("value", "at", "above", "tail")}
                by_name[name] = NormalScores.from_arrays(parts)
        evidence = np.asarray(arrays["evidence"], np.float32).reshape(-1, len(names))
        suspects = Suspects(
            np.asarray(arrays["key"], np.int64).view(np.uint64),
            np.asarray(arrays["service"], np.int64).view(np.uint64),
            np.asarray(arrays["piece"], np.int32),
            np.asarray(arrays["now"], np.int64),
            np.asarray(arrays["has_session"], np.uint8).astype(np.bool_),
            np.zeros(len(evidence), np.float32),
        )
        columns = (suspects.key, suspects.service, suspects.piece, suspects.now, suspects.has_session)
        if any(len(column) != len(evidence) for column in columns) or len(families) != len(names):
            raise ValueError("the calibration's columns differ in length")
        return cls(
            tuple(names), tuple(families), tables["line"], tables["end"], evidence, suspects, float(arrays["days"][0])
        )


class Fusion:
    """One model's calibration at work for a choice of detectors and a budget.

    A detector that the model does not have, because it had too little to learn from, has no vote.

    Args:
        calibration: of the model.
        params: who votes, and the budget.
        is_heavy: only those that judge every line (False), or only those that give a second opinion (True).

    Raises: SettingsError if none is left.
    """

    def __init__(self, calibration: Calibration, params: FusionParams, *, is_heavy: bool | None = None) -> None:
        self.params = params
        self.calibration = calibration
        self.names = voters(calibration, params, is_heavy=is_heavy)
        if not self.names:
            here = ", ".join(voters(calibration, FusionParams(), is_heavy=is_heavy)) or "none"
            asked = ", ".join(params.detectors or ()) or "asked for"
            which = {None: "", False: " that judges every line", True: " that gives a second opinion"}[is_heavy]
            raise SettingsError(
                f"the model has none of the detectors {asked}{which}; it has {here}. "
                "Train again with one of them switched on, or let others vote."
            )
        family = dict(zip(calibration.names, calibration.families, strict=True))
        self._own = _by_family(self.names, family, [n for n in self.names if not REGISTRY[n].is_service_wide])
        self._wide = _by_family(self.names, family, [n for n in self.names if REGISTRY[n].is_service_wide])

    def evidence(self, scores: Mapping[str, Scores]) -> tuple[Float32, Float32]:
        """Evidence of lines and of ends by detector; `float32[N, D]`, `float32[E, D]`."""
        line = [self.calibration.line[name].evidence(scores[name].line) for name in self.names]
        end = [self.calibration.end[name].evidence(scores[name].end) for name in self.names]
        return np.column_stack(line), np.column_stack(end)

    def weight(self, evidence: Float32) -> Float32:
        """What evidence amounts to: families add up, a family is half its strongest voice and half its mean.

        Shapes: `evidence float32[N, D]` → `float32[2, N]`, first for the line's own session or sequence, then for its service as a whole.
        """
        usual = _USUAL_ALONE if len(self._own) + len(self._wide) == 1 else _USUAL
        unusual = np.maximum(evidence - np.float32(usual), 0)
        weight = np.zeros((2, len(unusual)), np.float32)
        for place, families in enumerate((self._own, self._wide)):
            for members in families:
                voices = unusual[:, members]
                weight[place] += (voices.max(axis=1) + voices.mean(axis=1)) / 2
        rounded: Float32 = np.round(weight, 4)
        return rounded

    def loudest(self, evidence: Float32) -> Float32:
        """The most that any choice of these detectors makes of each line or end; `float32[N]`."""
        unusual = np.maximum(evidence - np.float32(_USUAL_ALONE), 0)
        most = np.zeros((2, len(unusual)), np.float32)
        for place, families in enumerate((self._own, self._wide)):
            for members in families:
                most[place] += unusual[:, members].max(axis=1)  # of which a family's voice falls short
        loudest: Float32 = np.round(most, 4).max(axis=0)
        return loudest

    def suspects(self, weight: Float32, about: Suspects) -> tuple[Suspects, Int64, Bools]:
        """What counts as evidence: of these lines and ends, by themselves and for their service.

        Args:
            weight: `float32[2, S]`, as `weight` gives it.
            about: the same lines and ends in source order; its own weights are not used.

        Returns:
            The suspects in source order, the row of `about` that each is of, and whether it speaks for the service.
        """
        is_wide, row = np.nonzero(weight >= SUSPECT)
        order = np.lexsort((is_wide, row))
        is_wide, row = is_wide[order].astype(np.bool_), row[order]
        some = about.take(row)
        found = replace(
            some,
            key=np.where(is_wide, some.service ^ np.uint64(_WIDE), some.key),
            has_session=some.has_session & ~is_wide,
            weight=weight[is_wide.astype(np.intp), row],
        )
        return found, row, is_wide

    @cached_property
    def peaks(self) -> Float64:
        """Strengths that incidents of normal lines reached, descending."""
        columns = [self.calibration.names.index(name) for name in self.names]
        weight = self.weight(self.calibration.evidence[:, columns])
        return peaks(self.suspects(weight, self.calibration.suspects)[0], self.params.incidents)

    @cached_property
    def tail(self) -> tuple[float, float, float]:
        """(u, mean excess over u, peaks a day above u) of the strengths of normal incidents."""
        return tail_of(self.peaks, self.calibration.days)

    @cached_property
    def threshold(self) -> float:
        """The strength at which normal lines are expected to raise this model's share of the budget."""
        return self.threshold_at(self.params.budget_per_day / self.params.shares)

    def threshold_at(self, per_day: float) -> float:
        """The strength that so many incidents of normal lines a day are expected to reach."""
        start, excess, rate = self.tail
        return round(max(_MIN_THRESHOLD, start + excess * math.log(max(rate / per_day, 1e-9))), 4)

    def false_per_day(self, strength: float) -> float:
        """Incidents of normal lines a day that reach this strength, by the fitted tail."""
        start, excess, rate = self.tail
        return rate * math.exp(min(0.0, -(strength - start) / excess))


def voters(calibration: Calibration, params: FusionParams, *, is_heavy: bool | None = None) -> tuple[str, ...]:
    """The detectors of a model that vote, in its order; `is_heavy` as for `Fusion`."""
    return tuple(
        name
        for name in calibration.names
        if (params.detectors is None or name in params.detectors) and is_heavy in (None, REGISTRY[name].is_heavy)
    )


def _by_family(names: Sequence[str], family: Mapping[str, str], chosen: Sequence[str]) -> list[list[int]]:
    """The columns of each family among the chosen detectors."""
    kinds = dict.fromkeys(family[name] for name in chosen)
    return [[names.index(name) for name in chosen if family[name] == kind] for kind in kinds]


def tail_of(ordered: Float64, days: float) -> tuple[float, float, float]:
    """The exponential tail of some peaks, descending: where it begins, its mean excess, and peaks a day beyond its beginning.

    The mean is taken from the median, so that an incident among the normal lines does not make all others seem weak.

    >>> start, excess, rate = tail_of(np.array([4.0, 3.0, 2.5, 2.0, 1.5]), days=1.0)
    >>> (start, excess > 0, rate)
    (1.5, True, 5.0)
    """
    count = len(ordered)
    size = min(count, max(_TAIL_FEW, int(count * _TAIL_RATIO)))
    start = float(ordered[size - 1]) if size else SUSPECT
    usual = float(np.median(ordered[:size] - start)) / math.log(2) if size else 0.0
    excess = (usual * size + _PRIOR_EXCESS * _PRIOR_PEAKS) / (size + _PRIOR_PEAKS)
    return start, excess, max(size, 1) / max(days, 1e-6)
