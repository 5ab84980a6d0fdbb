"""Header: the columns that nearly all lines of a file begin with, found by looking at the lines.

```
a-1.log 2024-05-16 10:00:01.250 2574 INFO store.api.server [req-7f - -] GET /items
word    time                    number level name          bracket      └─ content
```
For files whose format nobody has named: a sample of lines is read column by column from the left. A column belongs to the
header if nearly all lines have it in the same place and it is of a kind that content rarely begins with; words count only
where such a column follows them. Without a time or a level there is no header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from models.parsing.levels import WORDS
from models.parsing.timestamps import Clock, parse_time

SAMPLE_LINES: Final = 4_000
_MIN_LINES: Final = 8  # what fewer lines have in common may be their content
_SHARE: Final = 0.95  # of the lines; the rest are continuations and strays
_MAX_COLUMNS: Final = 16
_MAX_WORDS: Final = 4  # in a row
_MAX_SHAPES: Final = 64
_SOME_TIME_MS: Final = 1_000_000_000_000  # for times without a year; only where they end counts

_TIME, _LEVEL, _NUMBER, _DASH, _NAME, _BRACKET, _PADDED, _WORD = (
    "time",
    "level",
    "number",
    "dash",
    "name",
    "bracket",
    "padded",
    "word",
)
_GAP: Final = re.compile(r"[\s|,;]*")
_DATE: Final = re.compile(r"\d{4}[-/.]\d\d[-/.]\d\d(?![\w.-])")
_OPEN: Final = re.compile(r"[\[(<]?")
_CLOSE: Final = re.compile(r"[\])>]?:?(?=[\s|,;]|\Z)")
_LEVEL_WORD: Final = re.compile(r"[\[(<]?([A-Za-z]+)[\])>]?:?(?=[\s|,;]|\Z)")
#: By kind, what a column looks like; the gap after it is not part of it.
_PATTERNS: Final = {
    _LEVEL: r"[\[(<]?[A-Za-z]+[\])>]?:?(?=[\s|,;]|\Z)",
    _NUMBER: r"\d+(?=[\s|,;]|\Z)",
    _DASH: r"-+(?=[\s|]|\Z)",
    # who speaks: `api.Server:`, `main.go:12:`, `cron(pam)[12]:`, `init[1] (agent[7]):`, `Step|`, `mailer *32 - `
    _NAME: r"(?:[^\s:|\[\](){}\"'=]{1,80}(?:\([^\s()]{1,40}\))?(?:\[[^\s\[\]]{1,40}\])?(?::\d{1,9})?(?: \([^\s()]{1,80}\))?:(?=\s)"
    r"|[^\s|]{1,80} ?\||[^\s\[\]|:]{1,80}(?: [^\s\[\]|:]{1,16})?(?= - )[ ]-)",
    _BRACKET: r"(?:\[(?:[^\[\]]|\[[^\[\]]*\]){0,300}\]|\([^()]{0,300}\)):?(?=[\s|,;:]|\Z)",
    _PADDED: r"[^\s|]{1,80}(?=\t|  )",
    _WORD: r"[^\s|]{1,200}(?=[\s|,;]|\Z)",
}
_COMPILED: Final = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}
# Tried in order, the first that nearly all lines have; before a time or a level only what may be of many looks.
_LEADING: Final = (_TIME, _LEVEL, _BRACKET, _WORD)
_KINDS: Final = (_TIME, _LEVEL, _NUMBER, _DASH, _NAME, _BRACKET, _PADDED, _WORD)
_DOTTED: Final = re.compile(r"[A-Za-z_][\w$-]*(?:\.[\w$-]+)+\Z")


class _Column(NamedTuple):
    """One column as the sample has it: its kind, the text in each line, and where the next begins."""

    kind: str
    texts: list[str]
    ends: list[int]


class Header:
    """What takes a file's header off its lines; a line that is written otherwise stays as it is."""

    def __init__(self, columns: Iterable[_Column]) -> None:
        parts = [_shapes(column.texts) if column.kind == _TIME else _PATTERNS[column.kind] for column in columns]
        self.pattern = re.compile(_GAP.pattern.join(["", *parts, ""]))

    def content(self, line: str) -> str:
        """The line without its header."""
        match = self.pattern.match(line)
        return line[match.end() :] if match and match.end() < len(line) else line


def find_header(lines: Sequence[str], *, is_headed: bool = False) -> Header | None:
    """The header of some lines; None where they have none.

    Args:
        lines: a sample, as many as there are or `SAMPLE_LINES`.
        is_headed: a time or a level has been taken off the lines already.

    >>> lines = [f"web-{at} 2024-05-16 10:00:0{at} INFO api.Server: took {at} ms" for at in range(9)]
    >>> find_header(lines).content("web-7 2024-05-17 23:10:01 WARN api.Cache: is cold")
    'is cold'
    """
    at = [0] * len(lines)
    found: list[_Column] = []
    certain, is_anchored = 0, is_headed
    while len(lines) >= _MIN_LINES and len(found) < _MAX_COLUMNS:
        column = _next(lines, at, _KINDS if is_anchored else _LEADING)
        if column is None:
            break
        pending = [one for one in found[certain:] if one.kind == _WORD]
        found.append(column)
        at = column.ends
        if column.kind in (_TIME, _LEVEL) or (is_anchored and _closes(column.kind, pending)):
            certain, is_anchored = len(found), True
        elif len(pending) >= _MAX_WORDS:
            break
    return Header(found[:certain]) if certain and is_anchored else None


def _closes(kind: str, pending: Sequence[_Column]) -> bool:
    """Whether a column shows that what stands before it is the header, given the words between."""
    if kind in (_NUMBER, _DASH, _PADDED):
        return not pending
    if kind == _NAME:
        return len(pending) <= 1  # a host
    if kind == _BRACKET:
        return not pending or (len(pending) == 1 and _share(map(_DOTTED.match, pending[0].texts)) >= _SHARE)
    return False


def _next(lines: Sequence[str], at: Sequence[int], kinds: Iterable[str]) -> _Column | None:
    """The column that nearly all lines have next; lines without it are passed over from here on (-1)."""
    starts = [_skip(line, start) for line, start in zip(lines, at, strict=True)]
    for kind in kinds:
        end_of = _ENDS[kind]
        ends = [end_of(line, start) if start >= 0 else -1 for line, start in zip(lines, starts, strict=True)]
        if sum(end > start for start, end in zip(starts, ends, strict=True)) >= _SHARE * len(lines):
            texts = [line[start:end] for line, start, end in zip(lines, starts, ends, strict=True) if end > start >= 0]
            return _Column(kind, texts, ends)
    return None


def _skip(line: str, start: int) -> int:
    if start < 0:
        return -1
    gap = _GAP.match(line, start)
    return gap.end() if gap else start


def _end_of_time(line: str, start: int) -> int:
    opened = _OPEN.match(line, start)
    inner = opened.end() if opened else start
    date = _DATE.match(line, inner)
    time = parse_time(line, _SOME_TIME_MS, Clock(), inner)
    end = max(date.end() if date else -1, time[1] if time else -1)
    closed = _CLOSE.match(line, end) if end > 0 else None
    return closed.end() if closed else -1


def _end_of_level(line: str, start: int) -> int:
    match = _LEVEL_WORD.match(line, start)
    if match is None or match[1].lower() not in WORDS:
        return -1
    is_marked = match[1].isupper() or match.group() != match[1] or line[match.end() : match.end() + 2].isspace()
    return match.end() if is_marked else -1


def _end_of(kind: str) -> Callable[[str, int], int]:
    pattern = _COMPILED[kind]

    def end(line: str, start: int) -> int:
        match = pattern.match(line, start)
        return match.end() if match else -1

    return end


_ENDS: Final = {kind: _end_of(kind) for kind in _COMPILED} | {_TIME: _end_of_time, _LEVEL: _end_of_level}


def _shapes(texts: Iterable[str]) -> str:
    """A pattern of all times written like these."""
    shapes = dict.fromkeys(re.sub(r"[A-Za-z]+", "A", re.sub(r"\d+", "0", text)) for text in texts)
    written = [re.escape(shape).replace("0", r"\d+").replace("A", "[A-Za-z]+") for shape in list(shapes)[:_MAX_SHAPES]]
    return "(?:" + "|".join(written).replace(r"\ ", " +") + ")"


def _share(found: Iterable[object]) -> float:
    answers = [bool(one) for one in found]
    return sum(answers) / len(answers) if answers else 0.0
