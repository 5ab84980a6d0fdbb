"""Runs of equal keys in sorted columns: where they begin, and what each place has before it in its run."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.intp]
Int64 = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


def begins(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each place differs from the one before it in any of these columns.

    >>> begins(np.array([7, 7, 9]), np.array([1, 2, 2])).tolist()
    [True, True, True]
    """
    begun = np.zeros(len(columns[0]), np.bool_)
    begun[:1] = True
    for column in columns:
        begun[1:] |= column[1:] != column[:-1]
    return begun


def shifted(values: npt.NDArray[T], first: Places, stored: npt.NDArray[T]) -> npt.NDArray[T]:
    """The value before each place in its run; at the first place of each run what was stored of it.

    >>> shifted(np.array([1, 2, 3]), np.array([0, 2]), np.array([10, 30])).tolist()
    [10, 1, 30]
    """
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[first] = stored
    return before


def running_max(values: Int64, run: Places, stored: Int64) -> Int64:
    """The greatest value so far in each place's run, begun with `stored[run]`; `run` counts the runs from 0.

    Units: the spread of the values times the number of runs must stay below 2**63; times in ms of any calendar year do.

    >>> running_max(np.array([5, 3, 1, 4]), np.array([0, 0, 1, 1]), np.array([0, 2])).tolist()
    [5, 5, 2, 4]
    """
    if not len(values):
        return values
    low = values.min()
    lift = run * (values.max() - low + 1) - low  # each run lies above the one before it
    greatest: Int64 = np.maximum(np.maximum.accumulate(values + lift) - lift, stored[run])
    return greatest


def ranks(first: Places, size: int) -> Places:
    """Each place's number in its run, from 0.

    >>> ranks(np.array([0, 2]), 5).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(size) - np.repeat(first, np.diff(first, append=size))


def spans(low: Places, high: Places) -> tuple[Places, Places]:
    """All places from each `low` up to its `high` (exclusive), and the number of the span that each belongs to.

    >>> [column.tolist() for column in spans(np.array([3, 8]), np.array([5, 9]))]
    [[3, 4, 8], [0, 0, 1]]
    """
    size = high - low
    which = np.repeat(np.arange(len(low)), size)
    return np.arange(len(which)) + np.repeat(low - (np.cumsum(size) - size), size), which
