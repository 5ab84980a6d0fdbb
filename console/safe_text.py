"""Log text in pages and exports: cut, marked, and never a formula. What a browser could obey is written out by models/visible.py."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from models.visible import visible

#: What a spreadsheet takes for a formula, with the wide forms that some of them take too.
_FORMULA: Final = frozenset("=+-@＝＋－＠|")
_TOKEN: Final = re.compile(r"\S+")


def shortened(text: str, most: int) -> str:
    """The text, cut at `most` characters with a mark.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def segments(message: str, parameters: Iterable[str], differing: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The message cut into (text, mark): `value` for a parameter, `odd` for a token that the nearest normal line lacks, else empty.

    Parameters are looked for one after the other, so that a value that occurs twice is marked where it stands; a token that differs wins.

    >>> segments("took 17 ms on db9", ["17"], ["db9"])
    [('took ', ''), ('17', 'value'), (' ms on ', ''), ('db9', 'odd')]
    """
    marks = [""] * len(message)
    start = 0
    for value in parameters:
        at = message.find(value, start) if value else -1
        if at >= 0:
            marks[at : at + len(value)] = ["value"] * len(value)
            start = at + len(value)
    odd = frozenset(differing)
    for token in _TOKEN.finditer(message) if odd else ():
        if token[0] in odd or token[0].strip(",.;:()[]{}\"'") in odd:
            marks[token.start() : token.end()] = ["odd"] * len(token[0])
    found: list[tuple[str, str]] = []
    first = 0
    for at in range(1, len(message) + 1):
        if at == len(message) or marks[at] != marks[first]:
            found.append((message[first:at], marks[first]))
            first = at
    return found


def csv_cell(value: object) -> str:
    r"""One cell of an export: visible, and no formula.

    >>> csv_cell('=HYPERLINK("http://x")'), csv_cell("  -1+cmd"), csv_cell(0.5), csv_cell(None)
    ('\'=HYPERLINK("http://x")', "'  -1+cmd", '0.5', '')
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    text = visible(value)
    return "'" + text if text.lstrip()[:1] in _FORMULA and text.strip() else text


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file (RFC 4180), every cell quoted."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(head)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return out.getvalue()


def time_of_day(ms: object) -> str:
    """Hours to milliseconds, UTC; `?` for what is no time.

    >>> time_of_day(1_772_442_001_042), time_of_day(None)
    ('09:00:01.042', '?')
    """
    when = _moment(ms)
    return "?" if when is None else f"{when:%H:%M:%S}.{when.microsecond // 1000:03d}"


def date_and_time(ms: object) -> str:
    """Date and time to seconds, UTC; `?` for what is no time.

    >>> date_and_time(1_772_442_001_042)
    '2026-03-02 09:00:01'
    """
    when = _moment(ms)
    return "?" if when is None else f"{when:%Y-%m-%d %H:%M:%S}"


def _moment(ms: object) -> datetime | None:
    if not isinstance(ms, int | float) or isinstance(ms, bool):
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def span(ms: float) -> str:
    """How long, for people.

    >>> [span(ms) for ms in (400, 12_000, 190_000, 7_260_000, 200_000_000)]
    ['0 s', '12 s', '3 min', '2 h', '2 days']
    """
    seconds = max(0, int(ms // 1000))
    for size, name in ((86_400, "day"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if name == 'day' and count > 1 else ''}"
    return f"{seconds} s"
