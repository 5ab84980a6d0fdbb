"""Layouts: how one message of a template is written, so that the next one written alike needs no tracing.

```
traced     size=512 from 10.0.0.7 in 35 ms       spans of the values, from `models.tracing`
layout     size=(NUMBER) from (IP) in (NUMBER) ms       everything else as it stands, character by character
```
A message that a layout matches differs from the traced one only in its values, each of a class within which the default masks
see no difference: whatever the class lets in, they fold the same stretches. So the answer is that of tracing.

That holds because of what stands here and nowhere else; a change of `DEFAULT_MASKS` or `DEFAULT_SHAPES` must be held against it:

- A value stands between characters that no mask takes into a match with it (`_LEFT`, `_RIGHT`) and that are no value's.
- Classes leave out what a mask would take in part: dates in paths, `5s` in `a-5s`, hosts among dotted words.
- Masks that look across a space see the same: numbers, addresses and identifiers stay what they are, and no word is a unit
  (`5 KB`), a day or a month (`Mon Mar 3`).
- Quotes pair as before: a class has both or none.

Lines are hostile: no class can be read in two ways, so a match takes time in proportion to the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from models.masking import TOP

#: Longer messages are traced; with the bounds on templates and layouts this bounds the memory of patterns.
MAX_CHARS: Final = 1_000

#: The mask of a word that only the tree made a parameter.
WORD: Final = ""

_PLAIN: Final = re.compile(r"[^A-Za-z_-]*([A-Za-z_-](?:[A-Za-z_.:$@-]*[A-Za-z_-])?)[^A-Za-z_-]*")
#: What stands for each character of a value where neighbours are looked at: of an identifier, a number, another.
_OF_ID, _OF_NUM, _OF_OTHER = "\x01\x02\x03"
_CONFUSING: Final = re.compile("[\x01-\x03]")
#: After a name, never after two hex digits, which could be those of a hardware address.
_COLON: Final = r"(?:[A-Za-z]{3}|[g-zG-Z_)\]`]|\A[A-Za-z]|[^A-Za-z0-9:\x01-\x03][A-Za-z]):"
_LEFT: Final = re.compile(rf"(?:\A|[\s=(\[#|`]|{_COLON})\Z")
_RIGHT: Final = re.compile(r"\Z|[\s()\]|;=#>`]|,(?:\Z|[^0-9\x01-\x03])|[:.](?:\Z|\s)")
_LEFT_NUM: Final = re.compile(rf"(?:\A|[\s=(\[#|`]|{_COLON}|\x01:)\Z")
_RIGHT_ID: Final = re.compile(_RIGHT.pattern + r"|:\x02")
_LEFT_FRACTION: Final = re.compile(r"(?:\A|[\s=(\[#|`])\Z")
_STOP: Final = re.compile(r"\Z|[)\]|;]")
_SPACE: Final = re.compile(r"\Z|\s")
_LEFT_UUID: Final = re.compile(rf"(?:\A|[\s=(\[#|`]|{_COLON}|[A-Za-z_][._-])\Z")
_RIGHT_UUID: Final = re.compile(_RIGHT.pattern + "|[._-][A-Za-z]")
_HTTP: Final = re.compile(r"HTTP/\Z")
_RIGHT_HTTP: Final = re.compile(_RIGHT.pattern + '|"')
_METHOD: Final = "(?:GET|PUT|POST|HEAD|DELETE|PATCH|OPTIONS|CONNECT) "
_REQUEST: Final = re.compile(f'"{_METHOD[:-1]}\\Z')
_RIGHT_REQUEST: Final = re.compile('"| HTTP/')
_QUOTE: Final = re.compile(r"(?:\A|[\s=(,:\[])\Z")
_ANY: Final = re.compile("")
_LINE_END: Final = re.compile(r"\Z|\n[^ \t\x01-\x03]")
_UNIT_WORD: Final = r"(?:[KMGTPk]i?[bB]|B|[bB]ytes?)(?a:\b)"
_UNIT_FOLLOWS: Final = re.compile(rf"\s{_UNIT_WORD}")
_DAY: Final = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_MONTH: Final = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_MONTH_DAY: Final = re.compile(f"(?:{_MONTH}) +-?[0-9]")

_OCTET: Final = "[0-9]{1,3}"
_AMOUNT_UNIT: Final = r"(?: ?[KMGTPk]i?[bB]| B|[bBkKMGT]| [bB]ytes?|ns|us|ms|s|secs?|m|mins?|h|hrs?|d)(?a:\b)"
_NO_DATE: Final = r"(?!\S*?(?:[0-9]-[0-9]{2}-[0-9]|[0-9]/[0-9]{1,2}/[0-9]|://))"
_NO_UNIT: Final = rf"(?!{_UNIT_WORD})"
_LETTERS: Final = "[A-Za-z_][A-Za-z0-9_]*+"  # begins with a letter
_DIGITS: Final = (
    rf"(?![0-9]{{1,40}}{_AMOUNT_UNIT})[0-9]{{1,40}}[A-Za-z_][A-Za-z0-9_]*+"  # begins with a digit, is no amount
)

_NUMBER: Final = "-?[0-9]{1,40}+(?:[.,-][0-9]{1,40}+)?"
_FRACTION: Final = "[0-9]{1,40}+/[0-9]{1,40}+"  # after `/a:` it would be the second part of a path
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
_TIME: Final = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[T ]{_CLOCK}(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}})?"
_LONG_TIME: Final = rf"(?:{_DAY}) (?:{_MONTH}) {{1,2}}[0-9]{{1,2}} {_CLOCK} [0-9]{{4}}"
_DATE: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_IP: Final = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}(?::[0-9]{{1,5}})?"
_UUID: Final = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_NO_PART: Final = (  # no date, UUID or address within
    r"(?![A-Za-z0-9_.$@-]*?(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-|[0-9]\.[0-9]++\.[0-9]++\.[0-9]))"
)
_ID: Final = (
    rf"{_NO_UNIT}{_NO_PART}(?=[A-Za-z_.$@-]*+[0-9])(?:[0-9]{{1,40}}+[.-]{{1,2}}){{0,6}}(?:{_LETTERS}|{_DIGITS})"
    rf"(?:[.$@-]{{1,2}}(?:{_LETTERS}|{_DIGITS}|[0-9]{{1,40}}+(?![A-Za-z_]))){{0,12}}\.?"
)
_AMOUNT: Final = rf"[0-9]{{1,40}}+(?:\.[0-9]{{1,40}}+)?{_AMOUNT_UNIT}"
_PATH: Final = rf"{_NO_DATE}[A-Za-z0-9_.~$-]*+(?:/[A-Za-z0-9_.@+$%~:-]++){{2,40}}/?"
_QUERY: Final = r"(?:\?[A-Za-z0-9_.=&%+~/:-]*+)?"
_TARGET: Final = rf' {_NO_DATE}[^"\s<]*+'
_URL: Final = r"[A-Za-z][A-Za-z0-9+.-]*+://[^\s\"'<>()\[\]{},;|]++"
_NO_UUID: Final = "(?![A-Za-z_.$@-]*?-[a-fA-F]{4}-[a-fA-F]{4}-)"  # one without a digit
_WORD: Final = (
    rf"{_NO_UNIT}{_NO_UUID}(?!(?:{_DAY}|{_MONTH})(?a:\b))"
    rf"(?:(?:[A-Za-z_$@-]++\.){{1,8}}(?!(?:{TOP})(?![A-Za-z_$@-])))?[A-Za-z_$@-]++"
)
_WORDS: Final = rf"{_NO_UNIT}[A-Za-z_]{{3,}}+(?::[A-Za-z_]{{3,}}+){{1,3}}"
_HOST: Final = rf"{_NO_UNIT}{_NO_UUID}(?:[A-Za-z_-]++\.){{1,8}}(?:{TOP})(?![A-Za-z_-])(?::[0-9]{{1,5}})?"

_QUOTED: Final = rf'"(?!{_METHOD})[^"\n]*+"'
_SINGLE_QUOTED: Final = r"'[^'\"\n]*+'"
_REDACTED: Final = "<redacted:[a-z0-9_-]++:[0-9a-f]++>"
_LINES: Final = r"(?:\n[ \t][^\n]*+)+"


class _Class(NamedTuple):
    """A set of values that the masks treat alike, between neighbours of certain kinds."""

    left: re.Pattern[str]
    right: re.Pattern[str]
    values: re.Pattern[str]


def _class(values: str, left: re.Pattern[str] = _LEFT, right: re.Pattern[str] = _RIGHT) -> _Class:
    return _Class(left, right, re.compile(values))


#: By the mask that folds the values; the first that fits is taken.
_CLASSES: Final = {
    "redacted": (_class(_REDACTED, _ANY, _ANY),),
    "lines": (_class(_LINES, _ANY, _LINE_END),),
    "url": (_class(_URL),),
    "time": (_class(_TIME), _class(_DATE), _class(_LONG_TIME, right=_STOP)),
    "path": (
        _class(_TARGET, _REQUEST, _RIGHT_REQUEST),
        _class(_PATH + _QUERY, right=_SPACE),
        _class(_PATH),
    ),
    "str": (_class(_QUOTED, _ANY, _ANY), _class(_SINGLE_QUOTED, _QUOTE, _ANY)),
    "uuid": (_class(_UUID, _LEFT_UUID, _RIGHT_UUID),),
    "ip": (_class(_IP), _class("/" + _IP)),
    "amount": (_class(_AMOUNT),),
    "id": (_class(_ID, right=_RIGHT_ID),),
    "num": (
        _class(_NUMBER, _LEFT_NUM),
        _class(_FRACTION, _LEFT_FRACTION),
        _class(_CLOCK),
        _class(r"[0-9]\.[0-9]", _HTTP, _RIGHT_HTTP),
    ),
    "host": (_class(_HOST),),
    WORD: (_class(_WORD), _class(_WORDS)),
}


class Value(NamedTuple):
    """A stretch of the message that the template does not fix, and the mask that folds it (`WORD`: none)."""

    start: int
    end: int
    mask: str


class Group(NamedTuple):
    """A stretch of the message that becomes one parameter, and the values in it; what lies between them is fixed."""

    start: int
    end: int
    values: tuple[Value, ...]


def layout(message: str, groups: Sequence[Group]) -> re.Pattern[str] | None:
    """A pattern of all messages written like this one, with one group for each parameter.

    A value of no class, or where a mask could take it for part of something longer, is fixed like all the rest. None where the
    message is too long or holds what confuses.

    >>> pattern = layout("size=512 from 10.0.0.7", [Group(5, 8, (Value(5, 8, "num"),)), Group(14, 22, (Value(14, 22, "ip"),))])
    >>> pattern.fullmatch("size=-3 from 10.1.2.3:80").groups(), pattern.fullmatch("size=3 KB from 10.1.2.3")
    (('-3', '10.1.2.3:80'), None)
    """
    if len(message) > MAX_CHARS:
        return None
    groups = [_with_word(message, group) for group in groups]
    neighbours = _neighbours(message, groups)
    if _CONFUSING.search(message) or "redacted:" in neighbours:
        return None
    parts, at = [], 0
    for group in groups:
        if group.start < at:
            return None
        parts.append(re.escape(message[at : group.start]) + "(")
        at = group.start
        for value in group.values:
            if value.start < at or value.end > group.end:
                return None
            parts.append(re.escape(message[at : value.start]) + _values(message, neighbours, value))
            at = value.end
        parts.append(re.escape(message[at : group.end]) + ")")
        at = group.end
    return re.compile("".join(parts) + re.escape(message[at:]))


def _neighbours(message: str, groups: Sequence[Group]) -> str:
    """The message with a mark for each character of a value."""
    shown = list(message)
    for start, end, mask in (value for group in groups for value in group.values):
        mark = _OF_ID if mask == "id" else _OF_NUM if mask == "num" and ":" not in message[start:end] else _OF_OTHER
        shown[start:end] = mark * (end - start)
        if mask == "lines":
            shown[start] = "\n"  # every value of this class begins so
    return "".join(shown)


def _values(message: str, neighbours: str, value: Value) -> str:
    """A pattern of the class of a value; where there is none, of the value alone."""
    text = re.escape(message[value.start : value.end])
    left, right = neighbours[max(0, value.start - 8) : value.start], neighbours[value.end : value.end + 8]
    if value.mask in ("id", "host") and _UNIT_FOLLOWS.match(message, value.end):
        return text  # `a-5 KB`, where `a5` before the same unit is one identifier
    if value.mask == WORD and _MONTH_DAY.search(message):
        return text  # `aMon` before ` Mar 5`
    for left_of, right_of, values in _CLASSES.get(value.mask, ()):
        if left_of.search(left) and right_of.match(right) and values.fullmatch(message, value.start, value.end):
            return values.pattern
    return text


def _with_word(message: str, group: Group) -> Group:
    """A group without values holds one word, between punctuation."""
    if group.values:
        return group
    word = _PLAIN.fullmatch(message, group.start, group.end)
    start, end = word.span(1) if word else (group.start, group.end)
    return group._replace(values=(Value(start, end, WORD),))
