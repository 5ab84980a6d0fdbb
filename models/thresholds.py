"""Chooses what counts as an anomaly, on held-out normal data and a target rate of false alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.deeplog import DeepLogRule

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

#: Nothing likelier than this is an anomaly for its probability alone, however rarely it is seen.
_LIKELY: Final = 0.01


@dataclass(frozen=True)
class HeldOut:
    """Scored held-out examples, all normal.

    Shapes: all [E]. `unit` is the session, or the line where it has none; `is_end` marks ends of sessions.
    """

    probability: Float32
    rank: Int32
    is_end: Bools
    unit: Int64
    is_session: Bools


def alarms(held: HeldOut, rule: DeepLogRule) -> tuple[float | None, float | None]:
    """The share of held-out sessions, and of held-out lines without session, that the rule flags; None where there are none."""
    flagged = np.where(
        held.is_end, rule.is_anomalous_end(held.probability), rule.is_anomalous(held.probability, held.rank)
    )
    shares: list[float | None] = []
    for kind in (held.is_session, ~held.is_session):
        units = len(np.unique(held.unit[kind]))
        shares.append(len(np.unique(held.unit[kind & flagged])) / units if units else None)
    return shares[0], shares[1]


def choose_rule(held: HeldOut, session_rate: float, line_rate: float, classes: int) -> DeepLogRule:
    """The strictest rule whose alarms on normal data stay within a target rate.

    First the floor under the probability of an end, then the floor under that of a line, then the smallest top-g; each may
    use what the ones before it left of the target.

    Args:
        held: scored held-out examples.
        session_rate: alarms wanted at most, as a share of sessions …
        line_rate: … and of lines without session.
        classes: all classes, the largest top-g.
    """
    kinds = [
        (kind, rate) for kind, rate in ((held.is_session, session_rate), (~held.is_session, line_rate)) if kind.any()
    ]
    if not kinds:
        return DeepLogRule(top_g=min(classes, 9))
    allowed = [int(rate * len(np.unique(held.unit[kind]))) for kind, rate in kinds]
    end_floor, floor, top_g = _LIKELY, _LIKELY, 1
    for (kind, _), left in zip(kinds, allowed, strict=True):
        end_floor = min(end_floor, _floor(held, kind & held.is_end, left))
    is_alarm = held.is_end & (held.probability < np.float32(end_floor))
    for (kind, _), budget in zip(kinds, allowed, strict=True):
        used = np.unique(held.unit[kind & is_alarm])
        rest = kind & ~held.is_end & ~np.isin(held.unit, used)
        floor = min(floor, _floor(held, rest, budget - len(used)))
    is_alarm |= ~held.is_end & (held.probability < np.float32(floor))
    for (kind, _), budget in zip(kinds, allowed, strict=True):
        used = np.unique(held.unit[kind & is_alarm])
        rest = kind & ~held.is_end & ~np.isin(held.unit, used)
        top_g = max(top_g, 1 + _nth_largest(held, rest, max(0, budget - len(used))))
    return DeepLogRule(min(top_g, classes), round(floor, 8), round(end_floor, 8))


def _by_unit(values: npt.NDArray[np.generic], unit: Int64, worst: np.ufunc) -> npt.NDArray[np.generic]:
    """The worst value of each unit."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
    result: npt.NDArray[np.generic] = worst.reduceat(values[order], starts)
    return result


def _floor(held: HeldOut, part: Bools, budget: int) -> float:
    """The highest floor that flags at most `budget` units of this part."""
    if not part.any():
        return _LIKELY
    lowest = np.sort(_by_unit(held.probability[part], held.unit[part], np.minimum))
    return float(lowest[budget]) if budget < len(lowest) else _LIKELY


def _nth_largest(held: HeldOut, part: Bools, budget: int) -> int:
    """The rank that at most `budget` units of this part exceed."""
    if not part.any():
        return 0
    highest = np.sort(_by_unit(held.rank[part], held.unit[part], np.maximum))[::-1]
    return int(highest[budget]) if budget < len(highest) else 0
