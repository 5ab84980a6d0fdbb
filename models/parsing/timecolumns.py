"""A column of field values to event times: ISO 8601 and numbers by whole columns, the rest one by one."""

from __future__ import annotations

import re
from datetime import UTC
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.parsing.fields import Absent
from models.parsing.timestamps import MAX_MS, MIN_MS, Clock, field_time, zone_offset_ms

Int64 = npt.NDArray[np.int64]
ABSENT_MS: Final = -1  # no field of a time
INVALID_MS: Final = -2  # a field of a time, and no time in it
_TAIL: Final = re.compile(rb"(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_DIGITS: Final = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_MONTH_DAYS: Final = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def column_times(values: list[Any], reference_ms: Int64, clock: Clock) -> Int64:
    """Gives the event time of each value; `ABSENT_MS` where there is none, `INVALID_MS` where it says none.

    Shapes: values list[N]; reference_ms, result int64[N].
    Units: milliseconds since 1970, UTC.
    """
    kinds = set(map(type, values))
    if len(kinds) == 1:
        return _one_kind(values, kinds.pop(), reference_ms, clock)
    result = np.full(len(values), INVALID_MS, np.int64)
    for kind in kinds:
        rows = [row for row, value in enumerate(values) if type(value) is kind]
        result[rows] = _one_kind([values[row] for row in rows], kind, reference_ms[rows], clock)
    return result


def _one_kind(values: list[Any], kind: type, reference_ms: Int64, clock: Clock) -> Int64:
    if kind is Absent:
        return np.full(len(values), ABSENT_MS, np.int64)
    if kind is str:
        return _texts(values, reference_ms, clock)
    if kind is float:
        return _numbers(np.array(values, np.float64))
    if kind is int:
        try:
            return _numbers(np.array(values, np.int64))
        except OverflowError:
            return _numbers(np.array(values, np.float64))
    return np.full(len(values), INVALID_MS, np.int64)


def _numbers(values: npt.NDArray[Any]) -> Int64:
    """Seconds, milliseconds, microseconds or nanoseconds, by size."""
    with np.errstate(all="ignore"):
        known = np.isfinite(values) & (values >= 0) & (values < 5e18)
        safe = np.where(known, values, 0)
        parts = [safe < 1e11, safe < 1e14, safe < 1e17]
        choices = (
            [np.floor(safe * 1000 + 0.001), safe, safe // 1000]
            if safe.dtype.kind == "f"
            else [safe * 1000, safe, safe // 1000]
        )
        result = np.select(parts, choices, safe // 1_000_000).astype(np.int64)
    return np.where((result >= MIN_MS) & (result < MAX_MS) & known, result, INVALID_MS)


def _texts(values: list[str], reference_ms: Int64, clock: Clock) -> Int64:
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    result = np.full(len(values), INVALID_MS, np.int64)
    for length in np.unique(lengths).tolist():
        if 19 <= length <= 35:
            rows = np.flatnonzero(lengths == length)
            chosen = values if len(rows) == len(values) else [values[row] for row in rows.tolist()]
            result[rows] = _iso(chosen, length, clock)
    for row in np.flatnonzero(result == INVALID_MS).tolist():
        time = field_time(values[row], int(reference_ms[row]), clock)
        if time is not None:
            result[row] = time
    return result


def _iso(values: list[str], length: int, clock: Clock) -> Int64:
    """`2024-01-02T03:04:05.678Z` and its kin, all of one length; INVALID_MS for those of another make than the first."""
    joined = "".join(values)
    if not joined.isascii():
        return np.full(len(values), INVALID_MS, np.int64)
    text = np.frombuffer(joined.encode(), np.uint8).reshape(-1, length)
    tail = _TAIL.fullmatch(text[0, 19:].tobytes())
    if tail is None:
        return np.full(len(values), INVALID_MS, np.int64)
    fraction, zone = tail.span(1), tail.span(2)
    digits = text[:, _DIGITS] - np.uint8(48)
    good = (digits < 10).all(axis=1)
    good &= ((text[:, 4] == 45) | (text[:, 4] == 47)) & (text[:, 7] == text[:, 4])
    good &= (text[:, 10] == 84) | (text[:, 10] == 32)
    good &= (text[:, 13] == 58) & (text[:, 16] == 58)
    n = digits.astype(np.int64)
    year = ((n[:, 0] * 10 + n[:, 1]) * 10 + n[:, 2]) * 10 + n[:, 3]
    month, day = n[:, 4] * 10 + n[:, 5], n[:, 6] * 10 + n[:, 7]
    hour, minute, second = n[:, 8] * 10 + n[:, 9], n[:, 10] * 10 + n[:, 11], n[:, 12] * 10 + n[:, 13]
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    limit = _MONTH_DAYS[np.clip(month, 0, 12)] - ((month == 2) & ~leap)
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= limit)
    good &= (hour < 24) & (minute < 60) & (second <= 60) & (year >= 1970)
    result = ((_civil_days(year, month, day) * 24 + hour) * 60 + minute) * 60_000 + second * 1000
    if fraction[0] >= 0:
        start, end = 19 + fraction[0], 19 + fraction[1]
        part = text[:, start:end] - np.uint8(48)
        good &= (part < 10).all(axis=1) & (text[:, start - 1] == text[0, start - 1])
        for place in range(min(3, end - start)):
            result += part[:, place].astype(np.int64) * (100, 10, 1)[place]
    if zone[0] < 0:
        result -= _zone_offsets(result, clock)
    elif tail[2] == b"Z":
        good &= text[:, length - 1] == 90
    else:
        sign = text[:, 19 + zone[0]]
        good &= (sign == 43) | (sign == 45)
        part = (text[:, 19 + zone[0] + 1 :] - np.uint8(48)).astype(np.int64)
        if part.shape[1] == 5:
            good &= part[:, 2] == 10  # the colon
            part = part[:, [0, 1, 3, 4]]
        good &= (part < 10).all(axis=1)
        minutes = (part[:, 0] * 10 + part[:, 1]) * 60 + part[:, 2] * 10 + part[:, 3]
        result -= np.where(sign == 45, -minutes, minutes) * 60_000
    good &= (result >= 0) & (result < MAX_MS)
    return np.where(good, result, INVALID_MS)


def _civil_days(year: Int64, month: Int64, day: Int64) -> Int64:
    """Days since 1970-01-01 in the Gregorian calendar.

    Source: H. Hinnant, chrono-compatible low-level date algorithms, days_from_civil.
    """
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    days: Int64 = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return days


def _zone_offsets(local_ms: Int64, clock: Clock) -> Int64:
    if clock.zone is UTC:
        return np.zeros(len(local_ms), np.int64)
    # Offsets change at quarters of an hour only, so each quarter is looked up once.
    quarters, places = np.unique(np.clip(local_ms, 0, MAX_MS) // 900_000, return_inverse=True)
    offsets = np.array([zone_offset_ms(q * 900_000, clock.zone) for q in quarters.tolist()], np.int64)
    result: Int64 = offsets[places]
    return result
