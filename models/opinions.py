"""What each detector alone, and all but each, would have told: the same scoring, judged again with other votes.

```
shards ─ listen ─→ every line that any one detector finds odd, with its evidence by detector
                        │ for each choice of detectors: weights, incidents, the threshold that this choice has on normal lines
                        └─→ anomalies of that choice
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.fusion import Fusion, FusionParams
from models.incidents import Incidents, Suspects
from models.judge import Judge
from models.verdicts import Place, score_of

Anomaly = Mapping[str, Any]


@dataclass
class Opinions:
    """Gathers what the shards of one run hear; `choices` are judged as the lines pass.

    State: incidents of each choice, and its anomalies.
    """

    params: FusionParams
    choices: Mapping[str, tuple[str, ...]]
    anomalies: dict[str, list[Anomaly]] = field(default_factory=dict)
    _incidents: dict[str, Incidents] = field(default_factory=dict)
    _fusions: dict[tuple[str, str], Fusion | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.choices:
            self.anomalies[name] = []
            self._incidents[name] = self.params.incidents.build()

    def listen(
        self, judge: Judge, suspects: Suspects, evidence: npt.NDArray[np.float32], places: Sequence[Place]
    ) -> None:
        """Takes the suspects of one batch and model; as `Shard.listen`."""
        for choice in self.choices:
            fusion = self._fusion(choice, judge)
            if fusion is None:
                continue
            columns = [judge.fusion.names.index(name) for name in fusion.names]
            weight = fusion.weight(evidence[:, columns])
            some, rows, is_wide = fusion.suspects(weight, suspects)
            for told in self._incidents[choice].step(some, fusion.threshold):
                row = int(rows[told.at])
                votes = {name: float(evidence[row, at]) for name, at in zip(fusion.names, columns, strict=True)}
                score = score_of(told.strength, fusion.threshold)
                place = replace(places[row], session=None) if is_wide[told.at] else places[row]
                self.anomalies[choice].append(_anomaly(place, votes, score))

    def _fusion(self, choice: str, judge: Judge) -> Fusion | None:
        key = (choice, judge.version)
        if key not in self._fusions:
            names = tuple(name for name in self.choices[choice] if name in judge.fusion.names)
            fusion = (
                Fusion(judge.artefact.calibration, replace(judge.fusion.params, detectors=names)) if names else None
            )
            self._fusions[key] = fusion
        return self._fusions[key]


def choices(detectors: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each detector alone by its name, and all but each by `-name`.

    >>> choices(["count", "ngram"])
    {'count': ('count',), 'ngram': ('ngram',), '-count': ('ngram',), '-ngram': ('count',)}
    """
    alone: dict[str, tuple[str, ...]] = {name: (name,) for name in detectors}
    if len(detectors) < 2:
        return alone
    return alone | {f"-{name}": tuple(other for other in detectors if other != name) for name in detectors}


def _anomaly(place: Place, votes: Mapping[str, float], score: float) -> Anomaly:
    return {
        "ts": place.ts,
        "service": place.service,
        "session": place.session,
        "message": place.message,
        "score": score,
        "detectors": votes,
        "source": {"offset": place.origin.offset},
    }


def split(found: Mapping[str, list[Anomaly]]) -> tuple[dict[str, list[Anomaly]], dict[str, list[Anomaly]]]:
    """The anomalies of each detector alone, and of all but each."""

    def named(is_without: bool) -> Iterator[tuple[str, list[Anomaly]]]:
        for name, anomalies in found.items():
            if name.startswith("-") == is_without:
                yield name.removeprefix("-"), anomalies

    return dict(named(False)), dict(named(True))
