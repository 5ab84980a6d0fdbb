"""Quantities: the numbers of a message that may measure something, by their order in it.

A number counts where it stands by itself, behind `key=` or `key:`, or with a unit attached; a number inside a word, an identifier, an address,
a date, a time or a path does not. Durations with a unit attached are given in milliseconds and sizes in bytes, so that `950ms` and `1.2s` compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from models.masking import python_pattern

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_MAX_CHARS: Final = 8192  # of a message are looked at, as masking does
_FEW: Final = 64  # messages up to which Python's re is faster than the fixed cost of polars' expressions
_LARGEST: Final = 1e18  # beyond, a number is an identifier, and its square would not be finite
_DURATIONS: Final = {  # in ms
    **dict.fromkeys(("ns", "nanoseconds"), 1e-6),
    **dict.fromkeys(("us", "microseconds"), 1e-3),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1e3),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 6e4),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3.6e6),
    **dict.fromkeys(("d", "day", "days"), 8.64e7),
}
_SIZES: Final = {  # in bytes; k and M are binary, as nearly all programs mean them
    **dict.fromkeys(("b", "B", "byte", "bytes", "Byte", "Bytes"), 1.0),
    **{
        prefix + end: 1024.0**power
        for power, prefixes in enumerate(("kK", "M", "G", "T", "P"), 1)
        for prefix in prefixes
        for end in ("", "b", "B", "ib", "iB")
    },
}
_FACTORS: Final = _DURATIONS | _SIZES
_UNITS: Final = "|".join(sorted(_FACTORS, key=len, reverse=True))

#: What has a digit in it, up to the next blank, bracket, quote or `=`; a size's unit may follow a blank.
_FROM_DIGIT: Final = r"[0-9](?:[A-Za-z0-9_.:/+-]|,[0-9])*(?: [KMGTPk]i?[bB](?-u:\b))?"
_TOKEN: Final = "[A-Za-z_.:/+-]*" + _FROM_DIGIT
#: A token that is a number, with its unit. An exponent needs its sign: 12e45 is an identifier.
_NUMBER: Final = (
    r"^(?:[A-Za-z_.-]*:)?"
    r"([+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-][0-9]{1,3})?)"
    rf" ?({_UNITS})?[.:]*$"
)
#: The same, and stretches without a digit, so that Python's re looks at no character twice.
_PYTHON_TOKEN: Final = python_pattern(f"[A-Za-z_.:/+-]++(?:{_FROM_DIGIT})?|{_FROM_DIGIT}")
_PYTHON_NUMBER: Final = python_pattern(_NUMBER)
_PYTHON_UNIT_BEHIND: Final = re.compile(rf" (?:{_UNITS}|%|percent)(?![A-Za-z0-9_])|%")


def quantities(messages: pl.Series) -> tuple[Float64, Places]:
    """The quantities of all messages, one after another, and how many each message has.

    Shapes: messages String[N] → values `float64[Q]`, count `intp[N]`.

    >>> values, count = quantities(pl.Series(["read 1,024 of 3 kB in 1.5s from /10.0.0.7:80", "took=35 ms on 2018-09-28", "none"]))
    >>> values.tolist(), count.tolist()
    ([1024.0, 3072.0, 1500.0, 35.0], [3, 1, 0])
    """
    if len(messages) <= _FEW:
        each = [[one.value for one in spelled(message)] for message in messages.to_list()]
        return np.array([value for found in each for value in found], np.float64), np.array([*map(len, each)], np.intp)
    tokens = messages.str.head(_MAX_CHARS).str.extract_all(_TOKEN)
    line = np.repeat(np.arange(len(messages)), tokens.list.len().to_numpy())
    parts = tokens.explode(empty_as_null=False).str.extract_groups(_NUMBER).struct.unnest()
    digits, unit = parts.get_columns()
    if digits.str.contains(",", literal=True).any():
        digits = digits.str.replace_all(",", "", literal=True)
    values: Float64 = digits.cast(pl.Float64).to_numpy(writable=True)
    with_unit = np.flatnonzero(unit.is_not_null().to_numpy())
    values[with_unit] *= unit.gather(with_unit).replace_strict(_FACTORS, return_dtype=pl.Float64).to_numpy()
    is_number = np.abs(values) < _LARGEST  # false for NaN, which is no number
    return values[is_number] + 0.0, np.bincount(line[is_number], minlength=len(messages))  # + 0.0: there is no −0


class Quantity(NamedTuple):
    """One quantity as it stands in its message.

    Attributes:
        text: as written, without unit.
        unit: as written, attached or behind; empty if there is none.
        value: the number, in milliseconds or bytes if such a unit is attached.
        factor: what the number was multiplied by; 1 unless a unit is attached.
        start, end: where it stands, its unit included.
    """

    text: str
    unit: str
    value: float
    factor: float
    start: int
    end: int

    def like(self, *values: float) -> str:
        """Other values written in this one's unit.

        >>> Quantity("1.2", "s", 1200.0, 1e3, 0, 4).like(950.0, 2000.0)
        '0.95 to 2 s'
        """
        numbers = [value / self.factor for value in values]
        shown = " to ".join(f"{one:,.0f}" if abs(one) >= 1000 else f"{one:.3g}" for one in numbers)
        return f"{shown} {self.unit}".rstrip()


def spelled(message: str) -> list[Quantity]:
    """The quantities of one message, the same as `quantities` finds, with how they are written.

    >>> [(one.text, one.unit, one.factor) for one in spelled("read size=512 in 35 ms, then slept 2s")]
    [('512', '', 1.0), ('35', 'ms', 1.0), ('2', 's', 1000.0)]
    """
    message = message[:_MAX_CHARS]
    found = []
    for token in _PYTHON_TOKEN.finditer(message):
        number = _PYTHON_NUMBER.match(token[0])
        if number is None:
            continue
        text, unit = number[1], number[2] or ""
        factor = _FACTORS.get(unit, 1.0)
        value = float(text.replace(",", "")) * factor
        if not abs(value) < _LARGEST:
            continue
        start, end = token.start() + number.start(1), token.start() + number.end(2 if unit else 1)
        behind = _PYTHON_UNIT_BEHIND.match(message[end : end + 16]) if not unit else None
        if behind:
            unit, end = behind[0].strip(), end + behind.end()
        found.append(Quantity(text, unit, value + 0.0, factor, start, end))
    return found


def units_of(messages: Sequence[str], count: int) -> npt.NDArray[np.bool_]:
    """For each place, whether most of these messages with `count` quantities write a unit or a decimal point there; `bool[count]`."""
    each = [found for found in map(spelled, messages) if len(found) == count]
    marks = np.array([[bool(one.unit) or "." in one.text for one in found] for found in each], np.bool_)
    return marks.reshape(-1, count).mean(axis=0) > 0.5 if each else np.zeros(count, np.bool_)
