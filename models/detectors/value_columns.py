"""What the numbers of a template are like: which can be judged, on what scale, and what is usual for each.

A *column* is one number of a template: column 0 is the time since the last line of the template in its service, columns 1 to `VALUES`
are quantities of the message. Each is continuous, discrete or not judged at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.detectors.rows import mix

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
UInt64 = npt.NDArray[np.uint64]

VALUES: Final = 8  # quantities of a message judged at most
COLUMNS: Final = 1 + VALUES
CLIP: Final = (
    8.0  # a normalised value beyond is shown to the network as this: one wild value must not spoil what follows
)

ABSENT, CONTINUOUS, DISCRETE = 0, 1, 2

HELD_RATIO: Final = 0.25  # of a template's lines, the latest, are held out
_FEW: Final = 8  # distinct values up to which numbers without unit are discrete …
_MANY: Final = 32  # … and up to which they are where one value makes up half
#: (q99 − median) / (q75 − median), 3.4 for a Gaussian, beyond which a column is bent by a logarithm; twice that for q99.9, there 4.6.
_TAIL: Final = 6.0
_WIDE: Final = 10.0  # q99 / median beyond which it is bent too
_UNREMARKABLE: Final = 0.02  # the tail probability from which a discrete value is not remarked on


class Column(NamedTuple):
    """One column of one template; `Columns` has what the attributes mean.

    `values` and `share` are what a discrete column took, and how often.
    """

    kind: int
    bend: float = 0.0
    centre: float = np.nan
    spread: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    jump: float = np.inf
    unseen: float = 1.0
    values: Float64 = np.zeros(0)
    share: Float64 = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of all templates that have a value model.

    Shapes: `[T, COLUMNS]` each, but `slot`, `value`, `share` `[D]`.

    Attributes:
        kind: 0 not judged, 1 continuous, 2 discrete.
        bend: a continuous value x is bent to sign(x)·log1p(|x| / bend) first; 0: it is not.
        centre, spread: median and scale (from the median absolute deviation) after that; NaN centre where not continuous.
        low, high: what is usual: of normalised values, or the least and the greatest of a discrete column.
        jump: the usual difference between neighbouring normalised values.
        unseen: probability of a value that a discrete column did not have.
        bias, sigma: the Gaussian of the network's errors; NaN where not continuous.
        slot, value, share: what discrete columns took and how often; the slot is template · COLUMNS + column.
    """

    kind: npt.NDArray[np.uint8]
    bend: Float64
    centre: Float64
    spread: Float64
    low: Float64
    high: Float64
    jump: Float64
    unseen: Float64
    bias: Float64
    sigma: Float64
    slot: npt.NDArray[np.int32]
    value: Float64
    share: Float64

    @classmethod
    def of(cls, templates: Sequence[Sequence[Column]]) -> Columns:
        """The columns found; errors are not known yet."""

        def table(name: str) -> Float64:
            return np.array([[getattr(column, name) for column in columns] for columns in templates], np.float64)

        flat = [column for columns in templates for column in columns]
        return cls(
            kind=table("kind").astype(np.uint8),
            **{name: table(name) for name in ("bend", "centre", "spread", "low", "high", "jump", "unseen")},
            bias=np.full((len(templates), COLUMNS), np.nan),
            sigma=np.full((len(templates), COLUMNS), np.nan),
            slot=np.repeat(np.arange(len(flat)), [len(column.values) for column in flat]).astype(np.int32),
            value=np.concatenate([column.values for column in flat]),
            share=np.concatenate([column.share for column in flat]),
        )

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Columns:
        """The inverse of `to_arrays`.

        Raises: ValueError if one is missing or of another shape than the rest.
        """
        names = [column.name for column in fields(cls)]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"a value model lacks {', '.join(missing)}")
        columns = cls(**{name: arrays[name] for name in names})
        tables = [arrays[name] for name in names if name not in ("slot", "value", "share")]
        if {table.shape for table in tables} != {(len(columns.kind), COLUMNS)}:
            raise ValueError("the columns of a value model differ in shape")
        return columns

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it by name."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    def normalised(self, model: Places, raw: Float64) -> Float64:
        """Bent and standardised values, NaN where a column is not continuous; `model[M]`, `raw[M, COLUMNS]` → `[M, COLUMNS]`."""
        bend = self.bend[model]
        bent = np.copysign(np.log1p(np.abs(raw) / np.where(bend > 0, bend, 1.0)), raw)
        values: Float64 = (np.where(bend > 0, bent, raw) - self.centre[model]) / self.spread[model]
        return values

    def raw(self, model: int, column: int, value: float) -> float:
        """The number that `normalised` makes this value of."""
        bent = value * float(self.spread[model, column]) + float(self.centre[model, column])
        bend = float(self.bend[model, column])
        return float(np.copysign(np.expm1(min(abs(bent), 60.0)) * bend, bent)) if bend > 0 else bent

    def is_remarkable(self, model: Places, values: Float64, before: Float64) -> Bools:
        """Which lines have a value outside what is usual, or unusually far from the one before; `values`, `before[M, COLUMNS]` → `[M]`."""
        is_outside = (values < self.low[model]) | (values > self.high[model])
        is_jump = np.abs(np.clip(values, -CLIP, CLIP) - before) > self.jump[model]
        is_continuous = self.kind[model] == CONTINUOUS
        found: Bools = ((is_outside | is_jump) & is_continuous).any(axis=1)
        return found

    def deviation(self, model: Places, values: Float64, predicted: Float64) -> Float64:
        """How many standard deviations each value lies from its prediction; 0 where nothing is judged.

        A prediction is held within what is usual, so that no odd history makes an odd value look right.
        """
        expected = np.clip(predicted, self.low[model], self.high[model]) + self.bias[model]
        deviations: Float64 = np.nan_to_num(np.abs(values - expected) / self.sigma[model])
        return deviations

    def typical(self, model: int, column: int) -> Float64:
        """What a discrete column took most, the most frequent first."""
        at = np.flatnonzero(self.slot == model * COLUMNS + column)
        values: Float64 = self.value[at[np.argsort(-self.share[at], kind="stable")]]
        return values


class Frequencies:
    """The strangeness of discrete values: by the share of values as rare, in standard deviations of a Gaussian with that tail."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        keys = _value_keys(columns.slot, columns.value)
        order = np.argsort(keys)
        self._keys = keys[order]
        strangeness = np.zeros(len(keys))
        self._unseen = np.zeros(columns.kind.shape)
        for slot in np.unique(columns.slot).tolist():
            at = np.flatnonzero(columns.slot == slot)
            share = columns.share[at]
            rarer = (share[None, :] * (share[None, :] <= share[:, None])).sum(axis=1)
            strangeness[at] = [_deviations(one) for one in rarer.tolist()]
            model, column = divmod(slot, COLUMNS)
            self._unseen[model, column] = max(_deviations(columns.unseen[model, column]), strangeness[at].max())
        self._strangeness = strangeness[order]

    def deviation(self, model: Places, raw: Float64) -> Float64:
        """How strange each discrete value is; 0 in other columns; `[M, COLUMNS]`.

        A value never taken is the stranger, the farther it lies outside the range of those taken.
        """
        found = np.zeros(raw.shape)
        line, column = np.nonzero(self._columns.kind[model] == DISCRETE)
        if not len(line):
            return found
        row, value = model[line], raw[line, column]
        keys = _value_keys(row * COLUMNS + column, value)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        low, high = self._columns.low[row, column], self._columns.high[row, column]
        beyond = np.maximum(np.maximum(low - value, value - high), 0.0) / np.maximum(high - low, 1.0)
        unseen = self._unseen[row, column] + np.log2(1.0 + beyond)
        found[line, column] = np.where(self._keys[place] == keys, self._strangeness[place], unseen)
        return found


def time_column(gaps: Float64, before: Places, tail: float) -> Column:
    """The column of the time between lines; NaN where there was no line before. It is always bent: rates differ by the hour."""
    known = gaps[~np.isnan(gaps)]
    if len(known) < 2:
        return Column(ABSENT)
    return _continuous(gaps, before, tail, bend=max(1.0, float(np.quantile(known, 0.1))), least=0.1)


def value_column(values: Float64, before: Places, has_unit: bool, tail: float) -> Column:
    """What one quantity of a template is like.

    Not judged are constants, counters, identifiers, ports, and what does not stay within its range.

    Args:
        values: in source order; `[n]`.
        before: which value is the one before in the same service, -1 if none; `[n]`.
        has_unit: it is written with a unit or a decimal point, hence measured.
        tail: share of values to either side that is not usual.
    """
    held = max(1, int(len(values) * HELD_RATIO))
    early, late = values[:-held], values[-held:]
    distinct, count = np.unique(values, return_counts=True)
    steps = _steps(values, before)
    is_counter = (steps < 0).sum() < 0.1 * (steps > 0).sum()
    if len(distinct) == 1 or is_counter or (not has_unit and _is_identifier(values, distinct)):
        return Column(ABSENT)
    if len(distinct) <= _MANY and not has_unit and (np.abs(distinct) >= 1000).all():  # ports, process ids
        return Column(ABSENT)
    is_half_one = count.max() * 2 >= len(values)
    if (len(distinct) <= _FEW and not has_unit) or (len(distinct) <= _MANY and is_half_one):
        novel = int((~np.isin(late, early)).sum())
        comes_in_blocks = (steps != 0).sum() < 2 * len(distinct)  # a process id: another one after each restart
        if comes_in_blocks or novel > max(2, 0.01 * held):
            return Column(ABSENT)
        return Column(
            DISCRETE,
            low=float(distinct[0]),
            high=float(distinct[-1]),
            unseen=(novel + 1) / (held + 1),
            values=distinct,
            share=count / len(values),
        )
    if ((late < early.min()) | (late > early.max())).mean() > 0.1:
        return Column(ABSENT)
    middle, upper, far, farthest = np.quantile(values, (0.5, 0.75, 0.99, 0.999))
    quarter = upper - middle
    is_wide = far - middle > _TAIL * quarter or farthest - middle > 2 * _TAIL * quarter or far > _WIDE * abs(middle)
    sizes = np.abs(values[values != 0])
    bend = float(np.quantile(sizes, 0.1)) if is_wide else 0.0
    least = 0.0 if is_wide else float(np.diff(distinct).min()) / 2  # the rounding
    return _continuous(values, before, tail, bend, max(least, 1e-9))


def _continuous(values: Float64, before: Places, tail: float, bend: float, least: float) -> Column:
    bent = np.copysign(np.log1p(np.abs(values) / bend), values) if bend > 0 else values
    known = bent[~np.isnan(bent)]
    centre = float(np.median(known))
    low, high = (float(one) for one in np.quantile(known, (tail, 1 - tail)))
    spread = 1.4826 * float(np.median(np.abs(known - centre)))
    if spread < least:
        spread = max(least, (high - low) / 4.65)
    normal = np.clip((bent - centre) / spread, -CLIP, CLIP)
    steps = np.abs(_steps(normal, before))
    steps = steps[~np.isnan(steps)]
    return Column(
        CONTINUOUS,
        bend,
        centre,
        spread,
        (low - centre) / spread,
        (high - centre) / spread,
        float(np.quantile(steps, 1 - tail)) if len(steps) else np.inf,
    )


def _steps(values: Float64, before: Places) -> Float64:
    at = np.flatnonzero(before >= 0)
    steps: Float64 = values[at] - values[before[at]]
    return steps


def _is_identifier(values: Float64, distinct: Float64) -> bool:
    """Whole numbers that hardly ever come again and are large, or fill a range evenly as ports do."""
    if (values != np.floor(values)).any() or len(distinct) * 2 < len(values):
        return False
    if len(distinct) >= 0.9 * len(values) and float(np.median(np.abs(values))) >= 1e6:
        return True
    ordered = np.sort(values)
    evenly = (ordered - ordered[0]) / (ordered[-1] - ordered[0])
    distance = float(np.abs(evenly - np.linspace(0, 1, len(values))).max())
    return distance < 0.03 + 1.0 / math.sqrt(len(values))


def _value_keys(slot: npt.NDArray[np.integer[Any]], value: Float64) -> UInt64:
    return mix(slot, value.astype(np.float64).view(np.uint64))


def _deviations(probability: float) -> float:
    """The distance from the mean, in standard deviations, beyond which a Gaussian has this probability on both sides.

    >>> round(_deviations(0.0027), 2), _deviations(0.5)
    (3.0, 0.0)
    """
    return 0.0 if probability >= _UNREMARKABLE else NormalDist().inv_cdf(1 - max(probability, 1e-12) / 2)
