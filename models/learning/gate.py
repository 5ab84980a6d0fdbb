"""The gate: whether a new model may take the place of the present one.

```
lines ─┬─ older four fifths ─ train ─→ the trial: what this training makes of lines it has not seen
       └─ newest fifth, held out ────→ told by the trial, and by the present model
all lines ─ train ─→ the candidate, which must still tell what people confirmed
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.artefact import Artefact
from models.errors import SettingsError
from models.learning.buffered import BufferedLines
from models.learning.criteria import Criterion, Decision
from models.learning.marked import Anomaly, named, scenes
from models.learning.telling import JobParams, Told, told

Bools = npt.NDArray[np.bool_]

_CHANCE: Final = 0.01  # of being refused by bad luck where the true rate lies at the bound


@dataclass(frozen=True)
class GateParams:
    """What a candidate must hold.

    Attributes:
        held_out_ratio: share of the lines, the newest, that the trial does not learn.
        slack: times its share of the budget that the trial may tell a day: behaviour drifts, and a budget is an estimate.
        withheld_ratio: share of the buffer that suspects may have cost. What is left of more is a choice of calm lines: a model of those alone tells
            four times as many of the others as the model that chose them (docs/measurements.md).
    """

    held_out_ratio: float = 0.2
    slack: float = 3.0
    withheld_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.held_out_ratio < 0.5 or self.slack < 1 or not 0 <= self.withheld_ratio <= 1:
            raise SettingsError(
                "The gate's held_out_ratio is a share above 0 and below 0.5, its withheld_ratio one up to 1, its slack at least 1."
            )


def held_out(lines: BufferedLines, params: GateParams) -> Bools:
    """Which lines the trial does not learn: the newest."""
    found = np.zeros(len(lines), np.bool_)
    found[len(lines) - int(len(lines) * params.held_out_ratio) :] = True
    return found


def pass_gate(
    trial: Artefact,
    candidate: Artefact,
    present: Artefact | None,
    lines: BufferedLines,
    texts: Mapping[int, str],
    known: Sequence[Anomaly],
    withheld_ratio: float,
    job: JobParams,
    params: GateParams,
) -> Decision:
    """Whether the candidate may be published.

    Args:
        trial: trained on all lines but those held out.
        candidate: trained on all of them.
        present: the model that judges the service now; None if there is none.
        lines: all of them.
        texts: of their templates.
        known: anomalies that people confirmed.
        withheld_ratio: share of the buffer that suspects cost.
        job: how the job looks at lines.
        params: the bounds.
    """
    is_held = held_out(lines, params)
    found = told(trial, lines, texts, is_held, job)
    share = job.fusion.budget_per_day / job.fusion.shares
    criteria = [_within_budget(found, share, params), _is_whole(withheld_ratio, params.withheld_ratio)]
    if present is not None:
        criteria.append(_no_worse(found, told(present, lines, texts, is_held, job), share))
        criteria.append(_still_told(candidate, present, lines, texts, known, job))
    return Decision(tuple(criteria))


def _within_budget(found: Told, per_day: float, params: GateParams) -> Criterion:
    bound = max(1, most_by_chance(params.slack * per_day * found.days))  # a single one says nothing of a rate
    return Criterion(
        "held-out alarms",
        found.incidents <= bound,
        found.incidents,
        bound,
        f"of {found.lines:,} normal lines held out ({found.days * 24:.2g} hours) it would tell {_count(found.incidents)}; "
        f"at most {bound} fit {params.slack:g} times a budget of {per_day:g} a day",
    )


def _is_whole(ratio: float, bound: float) -> Criterion:
    return Criterion(
        "withheld",
        ratio <= bound,
        round(ratio, 4),
        bound,
        f"lines withheld as suspects cost {ratio:.1%} of the buffer; at most {bound:.0%} may, or what is left is calmer than the service",
    )


def _no_worse(found: Told, present: Told, per_day: float) -> Criterion:
    bound = present.incidents + max(1, most_by_chance(per_day * found.days))
    return Criterion(
        "against the present model",
        found.incidents <= bound,
        found.incidents,
        bound,
        f"the present model would tell {_count(present.incidents)} of the same lines; at most {bound} may the new one",
    )


def _still_told(
    candidate: Artefact,
    present: Artefact,
    lines: BufferedLines,
    texts: Mapping[int, str],
    known: Sequence[Anomaly],
    job: JobParams,
) -> Criterion:
    enacted = [anomaly for anomaly in known if anomaly.oddities]
    told_now = [anomaly for anomaly in enacted if is_told(present, lines, texts, anomaly, job)]
    lost = [anomaly.anomaly_id for anomaly in told_now if not is_told(candidate, lines, texts, anomaly, job)]
    words = (
        f"of {len(known)} confirmed anomalies {len(enacted)} can be enacted again from the buffer; the present model tells {len(told_now)} of them, "
        f"the new one {len(told_now) - len(lost)}"
    )
    return Criterion(
        "known anomalies",
        not lost,
        len(told_now) - len(lost),
        len(told_now),
        words + (f", not {', '.join(lost[:5])}" if lost else ""),
    )


def is_told(
    artefact: Artefact, lines: BufferedLines, texts: Mapping[int, str], anomaly: Anomaly, job: JobParams
) -> bool:
    """Whether the model tells an anomaly that is enacted again, in most of its scenes."""
    found = [
        told(artefact, scene, named(scene, texts), is_new, job).incidents > 0
        for scene, is_new in scenes(lines, anomaly)
    ]
    return sum(found) * 2 > len(found)


def most_by_chance(expected: float) -> int:
    """The count that a Poisson variable of this mean exceeds once in a hundred times.

    >>> [most_by_chance(mean) for mean in (0.001, 0.1, 1.0, 10.0)]
    [0, 1, 4, 18]
    """
    count, term = 0, math.exp(-min(expected, 700.0))
    total = term
    while total < 1 - _CHANCE:
        count += 1
        term *= expected / count
        total += term
        if count > expected + 40 * math.sqrt(expected + 1):  # beyond the precision of the sum
            break
    return count


def _count(incidents: int) -> str:
    return "1 anomaly" if incidents == 1 else f"{incidents:,} anomalies"
