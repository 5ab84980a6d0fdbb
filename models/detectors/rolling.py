"""What a service's errors have been lately: an exponential mean and deviation for each service, with what was learned as the start.

Minutes are judged whole: a line sees all minutes before its own, so nothing depends on the cut into batches. Inside a minute sums are whole
numbers, which add up to the same in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import DIGITS, Float32, Int64, UInt64
from models.detectors.rows import Rows

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_MINUTE_MS: Final = 60_000
_RECORD: Final = np.dtype(
    [
        ("touched_ms", "<i8"),
        ("minute", "<i8"),  # the one that is open
        ("weight", "<f8"),  # of the minutes before it: lines, …
        ("total", "<f8"),  # … their errors, …
        ("square", "<f8"),  # … and the squares of these, all decayed
        ("open_weight", "<i8"),
        ("open_total", "<i8"),  # in units of 10**-DIGITS
        ("open_square", "<i8"),
    ]
)


@dataclass(frozen=True)
class RollingParams:
    """Where the mean and the deviation start, and how they move.

    Attributes:
        mean, deviation: learned on normal lines; the deviation never falls below half of it.
        most: an error counts as this much at most, so that the mean never learns to call anomalies normal.
        prior_lines: how many lines the learned figures count as.
        half_life_min: event time after which a line counts half.
        max_services: bound of the state, 72 bytes each.
    """

    mean: float
    deviation: float
    most: float
    prior_lines: float
    half_life_min: float
    max_services: int

    def __post_init__(self) -> None:
        if not (self.deviation > 0 and np.isfinite([self.mean, self.deviation, self.most]).all()):
            raise ValueError("the learned errors are no numbers, or do not vary")


class Rolling:
    """The mean and deviation of each service's errors.

    State: `Rows` by service; at most `max_services`, the longest silent making room.

    Source: exponential smoothing of mean and variance, Roberts, Control Chart Tests Based on Geometric Moving Averages (1959).
    """

    def __init__(self, params: RollingParams) -> None:
        self._params = params
        self.rows = Rows(_RECORD, params.max_services)

    def step(self, service: UInt64, now: Int64, error: Float32) -> tuple[Float64, Float64]:
        """The mean and the deviation that each line is judged by; then the lines count themselves.

        Args:
            service: `uint64[N]`.
            now: `int64[N]`, ms; never falls within a service.
            error: `float32[N]`.

        Shapes: `float64[N]` each.
        """
        mean, deviation = np.empty(len(error)), np.empty(len(error))
        if not len(error):
            return mean, deviation
        minute = now // _MINUTE_MS
        order = np.lexsort((minute, service))
        is_first = np.append(True, service[order[1:]] != service[order[:-1]])
        is_new = is_first | np.append(True, minute[order[1:]] != minute[order[:-1]])
        start = np.flatnonzero(is_new)
        group = np.cumsum(is_new) - 1  # of each line: its minute of its service
        capped = np.minimum(error[order].astype(np.float64), self._params.most)
        parts = np.rint(capped * 10**DIGITS).astype(np.int64)
        sums = [np.add.reduceat(column, start) for column in (np.ones_like(parts), parts, parts * parts)]

        owner = np.cumsum(is_first[start]) - 1
        rows = self.rows.at(service[order[start[is_first[start]]]])
        number = (
            np.arange(len(start)) - np.flatnonzero(is_first[start])[owner]
        )  # of a minute among those of its service
        group_mean, group_deviation = np.empty(len(start)), np.empty(len(start))
        for turn in range(int(number.max()) + 1):
            at = np.flatnonzero(number == turn)
            row = rows[owner[at]]
            self._close(row, minute[order[start[at]]])
            group_mean[at], group_deviation[at] = self._figures(row)
            data = self.rows.data
            for name, column in zip(("open_weight", "open_total", "open_square"), sums, strict=True):
                data[name][row] += column[at]
        last = np.append(start[1:], len(order)) - 1
        np.maximum.at(self.rows.data["touched_ms"], rows[owner], now[order[last]])
        self.rows.is_dirty[rows] = True
        mean[order], deviation[order] = group_mean[group], group_deviation[group]
        return mean, deviation

    def drop(self, service: int) -> None:
        """Forget a service."""
        row = self.rows.find(np.array([service], np.uint64))
        self.rows.drop(row[row >= 0])

    def _close(self, row: Places, minute: Int64) -> None:
        """Where another minute begins: what was open joins what was before, and all of it decays."""
        data = self.rows.data
        begins = data["minute"][row] < minute
        row, minute = row[begins], minute[begins]
        fade = 0.5 ** ((minute - data["minute"][row]) / self._params.half_life_min)
        unit = 10.0**DIGITS
        for name, scale in (("weight", 1.0), ("total", unit), ("square", unit * unit)):
            data[name][row] = (data[name][row] + data[f"open_{name}"][row] / scale) * fade
            data[f"open_{name}"][row] = 0
        data["minute"][row] = minute

    def _figures(self, row: Places) -> tuple[Float64, Float64]:
        """Mean and deviation of the minutes before the open one, the learned figures included."""
        params, data = self._params, self.rows.data
        weight = params.prior_lines + data["weight"][row]
        mean = (params.prior_lines * params.mean + data["total"][row]) / weight
        square = (params.prior_lines * (params.deviation**2 + params.mean**2) + data["square"][row]) / weight
        deviation = np.sqrt(np.maximum(square - mean * mean, (params.deviation / 2) ** 2))
        return mean, deviation
