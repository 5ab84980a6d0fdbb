"""Event times from text and numbers: one function for a text at a line's head, one for a field's value.

Times are milliseconds since 1970, UTC. A time without a zone is read in the zone of the settings; a time without a
year (syslog) takes the year nearest to the record's Kafka timestamp, a time without a date the nearest day.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

MIN_MS: Final = 100_000_000_000  # 1973-03-03: smaller numbers are durations and counters, not times
MAX_MS: Final = 4_102_444_800_000  # 2100-01-01
_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1).toordinal()

_MONTHS: Final = {
    m: i for i, m in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_MONTH: Final = "(?P<mon>(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))[a-z]{0,6}"
_DAY_NAME: Final = "(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},? +)?"
_CLOCK: Final = r"(?P<h>\d\d?)[:.](?P<mi>\d\d)[:.](?P<s>\d\d)(?:[.,:](?P<f>\d{1,9})(?!\d))?"
_ZONE: Final = r"(?:\s?(?P<z>Z\b|UTC\b|GMT\b|[+-]\d\d:\d\d\b|[+-]\d{4}\b)|(?P<z2>[+-]\d\d\b))?"
_AMPM: Final = r"(?: ?(?P<ap>[AaPp][Mm])\b)?"

_ISO: Final = re.compile(
    r"(\d{4})[-/.](\d\d)[-/.](\d\d)(?:[T_-]|,? +)(\d\d)[:.](\d\d)[:.](\d\d)(?:[.,:](\d{1,9})(?!\d))?"
    r"(?:\s?(Z\b|UTC\b|GMT\b|[+-]\d\d:\d\d\b|[+-]\d{4}\b)|([+-]\d\d\b))?"
)
# Tried in this order; the first that matches and names a real instant wins.
_DIGIT_FORMS: Final[tuple[re.Pattern[str], ...]] = tuple(
    re.compile(form)
    for form in (
        rf"(?P<y>\d{{4}})(?P<mo>\d\d)(?P<d>\d\d)[T _-](?P<h>\d\d):?(?P<mi>\d\d):?(?P<s>\d\d)"
        rf"(?:[.,:](?P<f>\d{{1,9}})(?!\d))?{_ZONE}",  # 20170609T201040Z, 20171223-22:15:29:606
        # The Utah format, YYMMDD HHMMSS and with colons.
        r"(?P<yy>\d\d)(?P<mo>\d\d)(?P<d>\d\d) (?P<h>\d\d):?(?P<mi>\d\d):?(?P<s>\d\d)(?:[.,](?P<f>\d{1,9}))?(?!\d)",
        rf"(?P<a>\d\d)/(?P<b>\d\d)/(?P<c>\d\d) {_CLOCK}{_AMPM}",  # yy/MM/dd, else MM/dd/yy
        rf"(?P<m1>\d\d?)(?P<sep>[/.-])(?P<m2>\d\d?)(?P=sep)(?P<y>\d{{4}})(?:,? +|T){_CLOCK}{_AMPM}{_ZONE}",
        rf"(?P<d>\d\d?)[ /-]{_MONTH}[ /-](?P<y>\d{{4}})[ :T]+{_CLOCK}{_ZONE}",  # access logs
        rf"(?P<mo>\d\d)[-.](?P<d>\d\d) {_CLOCK}",  # no year: Android and others
        r"(?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?:[.,](?P<f>\d{1,9}))?(?![\d:])",  # no date
        r"(?P<e>\d{10}(?:\d{3}){0,3})(?:[.,](?P<ef>\d{1,9}))?(?![\w.:-])",  # epoch: s, ms, us, ns
    )
)
_LETTER_FORMS: Final[tuple[re.Pattern[str], ...]] = tuple(
    re.compile(form)
    for form in (
        rf"{_DAY_NAME}{_MONTH} +(?P<d>\d\d?)(?:,? (?P<y>\d{{4}}))?,? (?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)"
        rf"(?:[.,](?P<f>\d{{1,9}}))?(?: (?P<z>UTC|GMT|[+-]\d{{4}}))?(?: (?P<y2>\d{{4}})(?!\d))?",  # syslog, ctime
        rf"{_DAY_NAME}(?P<d>\d\d?)[ /-]{_MONTH}[ /-](?P<y>\d{{4}})[ :T]+{_CLOCK}{_ZONE}",  # RFC 2822
    )
)


@dataclass(frozen=True, slots=True)
class Clock:
    """How times are completed: the zone of zone-less ones, and whether 03/04 is the third of April."""

    zone: tzinfo = UTC
    day_first: bool = False


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """Gives the time zone of a setting: `UTC`, an offset such as `+02:00`, or a name such as `Europe/Prague`.

    Raises:
        ValueError: the name is no zone.
    """
    if name.upper() in ("", "Z", "UTC", "GMT"):
        return UTC
    match = re.fullmatch(r"([+-])(\d\d):?(\d\d)", name)
    if match:
        minutes = int(match[2]) * 60 + int(match[3])
        return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is no time zone; use UTC, an offset such as +02:00, or a name such as Europe/Prague"
        ) from error


@lru_cache(maxsize=4096)
def _days(year: int, month: int, day: int) -> int | None:
    try:
        return date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None


def zone_offset_ms(local_ms: int, zone: tzinfo) -> int:
    """Gives the milliseconds to take from a local time to reach UTC."""
    if zone is UTC:
        return 0
    offset = (datetime(1970, 1, 1) + timedelta(milliseconds=local_ms)).replace(tzinfo=zone).utcoffset()  # noqa: DTZ001 - local by meaning
    return 0 if offset is None else int(offset.total_seconds() * 1000)


def parse_time(text: str, reference_ms: int, clock: Clock, start: int = 0) -> tuple[int, int] | None:
    """Gives the time written at `start` of a text and where it ends, None if there is none.

    Args:
        text: any text.
        reference_ms: the record's Kafka timestamp, for what the text leaves out.
        clock: the zone and the order of day and month.
        start: where the time begins.

    Units: milliseconds since 1970, UTC.

    >>> parse_time("220115 14:23:45 done", 0, Clock())
    (1642256625000, 15)
    >>> parse_time("Jan  2 00:00:01 host", 1704067200000, Clock())
    (1704153601000, 15)
    """
    if text[start : start + 1].isalpha():
        forms = _LETTER_FORMS
    else:
        match = _ISO.match(text, start)
        if match is not None:
            value = _iso_instant(match, clock)
            return None if value is None else (value, match.end())
        forms = _DIGIT_FORMS
    for form in forms:
        match = form.match(text, start)
        if match is not None:
            value = _instant(match, reference_ms, clock)
            if value is not None:
                return value, match.end()
    return None


def _iso_instant(match: re.Match[str], clock: Clock) -> int | None:
    year, month, day, hour, minute, second, fraction, zone, short_zone = match.groups()
    days = _days(int(year), int(month), int(day))
    h, m, s = int(hour), int(minute), int(second)
    if days is None or h > 23 or m > 59 or s > 60:
        return None
    local = days * _DAY_MS + ((h * 60 + m) * 60 + s) * 1000 + _milliseconds(fraction)
    zone = zone or short_zone
    value = local - (zone_offset_ms(local, clock.zone) if zone is None else _shift_ms(zone))
    return value if 0 <= value < MAX_MS else None


def _instant(match: re.Match[str], reference_ms: int, clock: Clock) -> int | None:
    part = match.groupdict()
    if part.get("e"):
        return epoch_ms(int(part["e"]), part.get("ef"))
    hour, minute, second = int(part["h"]), int(part["mi"]), int(part["s"])
    if part.get("ap"):
        hour = hour % 12 + (12 if part["ap"][0] in "pP" else 0)
    if hour > 23 or minute > 59 or second > 60:
        return None
    of_day = ((hour * 60 + minute) * 60 + second) * 1000 + _milliseconds(part.get("f"))
    zone = part.get("z") or part.get("z2")
    if zone is not None:
        shift: int | None = _shift_ms(zone)
        reference = reference_ms + (shift or 0)
    else:
        shift = None
        reference = reference_ms + zone_offset_ms(reference_ms, clock.zone)
    days = _days_of(part, of_day, reference, clock)
    if days is None:
        return None
    local = days * _DAY_MS + of_day
    value = local - (zone_offset_ms(local, clock.zone) if shift is None else shift)
    return value if 0 <= value < MAX_MS else None


def _days_of(part: dict[str, str | None], of_day: int, reference: int, clock: Clock) -> int | None:
    """Gives the day number of a match; what it leaves out is taken so that the time lies nearest to the reference."""
    month, day = 0, 0
    year = part.get("y") or part.get("y2")
    if part.get("a"):
        a, b, c = int(part["a"] or 0), int(part["b"] or 0), int(part["c"] or 0)
        if clock.day_first and 1 <= b <= 12 and 1 <= a <= 31:
            return _days(_century(c), b, a)
        return _days(_century(a), b, c) if 1 <= b <= 12 and 1 <= c <= 31 else _days(_century(c), a, b)
    if part.get("m1"):
        first, second = int(part["m1"] or 0), int(part["m2"] or 0)
        if clock.day_first or part["sep"] != "/" or first > 12:
            first, second = second, first
        return _days(int(year or 0), first, second)
    if part.get("mon"):
        month = _MONTHS[(part["mon"] or "").lower()]
    elif part.get("mo"):
        month = int(part["mo"] or 0)
    else:
        day_number = reference // _DAY_MS
        return min((day_number + d for d in (-1, 0, 1)), key=lambda d: abs(d * _DAY_MS + of_day - reference))
    day = int(part["d"] or 0)
    if year is not None:
        return _days(int(year), month, day)
    if part.get("yy"):
        return _days(_century(int(part["yy"] or 0)), month, day)
    this_year = (date.fromordinal(_EPOCH) + timedelta(days=max(0, min(reference, MAX_MS)) // _DAY_MS)).year
    near = [d for y in (this_year - 1, this_year, this_year + 1) if (d := _days(y, month, day)) is not None]
    return min(near, key=lambda d: abs(d * _DAY_MS + of_day - reference)) if near else None


def _century(two_digits: int) -> int:
    return two_digits + (1900 if two_digits >= 70 else 2000)


def _milliseconds(fraction: str | None) -> int:
    return int((fraction + "00")[:3]) if fraction else 0


@lru_cache(maxsize=256)
def _shift_ms(zone: str) -> int:
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return (-minutes if zone[0] == "-" else minutes) * 60_000


def epoch_ms(number: float, fraction: str | None = None) -> int | None:
    """Gives a number of seconds, milliseconds, microseconds or nanoseconds since 1970 as milliseconds.

    The unit follows from the size: seconds stay below 1e11 until the year 5138.

    >>> epoch_ms(1724.5), epoch_ms(1724000000.123), epoch_ms(1544712660300000000)
    (None, 1724000000123, 1544712660300)
    """
    if isinstance(number, bool) or not math.isfinite(number):
        return None
    if fraction is not None:
        number = number + int(fraction) / 10 ** len(fraction)
    if number < 1e11:
        value = math.floor(number * 1000 + 0.001)  # a double of seconds is exact to 0.0003 ms
    elif number < 1e14:
        value = int(number)
    elif number < 1e17:
        value = int(number) // 1000
    else:
        value = int(number) // 1_000_000
    return value if MIN_MS <= value < MAX_MS else None


def field_time(value: object, reference_ms: int, clock: Clock) -> int | None:
    """Gives the time that a field's value states, None if it states none.

    >>> field_time("2024-01-02T03:04:05.678901Z", 0, Clock()), field_time("soon", 0, Clock())
    (1704164645678, None)
    """
    if isinstance(value, str):
        text = value.strip().lstrip("[(")
        if not text or len(text) > 64:
            return None
        if text.replace(".", "", 1).isdecimal() and text.isascii():
            whole, _, fraction = text.partition(".")
            return epoch_ms(int(whole), fraction or None) if 0 < len(whole) <= 19 else None
        found = parse_time(text, reference_ms, clock)
        return None if found is None else found[0]
    if isinstance(value, int | float):
        try:
            return epoch_ms(value)
        except OverflowError:
            return None
    return None
