"""Parameters: the values that a template left out, found again in one message, with a name, a type and a unit.

The masks are applied once more to that one message, this time keeping where each piece came from; so a value is exactly
what stood in the line. This runs for anomalies, never for every line; and since messages of one template are mostly written
alike, most of them are read by a pattern made from an earlier one (`models.layouts`), with the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from models.drain import PARAMETER
from models.layouts import WORD, Group, Value, layout
from models.masking import CUT, DEFAULT_MASKS, DEFAULT_SHAPES, PUNCTUATION, MaskParams
from models.tracing import PLACEHOLDER, Piece, trace

_KEY: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)[\"']?[=:]\s*[\"'(\[{<]*$")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_-]*$")

#: Types, the first that fits the whole value.
_TYPES: Final = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in (
            ("redacted", r"<redacted:.*>"),
            ("int", r"[+-]?\d+"),
            ("float", r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?"),
            ("uuid", r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
            ("ip", r"/?\d+\.\d+\.\d+\.\d+(?::\d+)?(?:, ?\d+\.\d+\.\d+\.\d+(?::\d+)?)*"),
            ("mac", r"(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}"),
            ("hex", r"0x[0-9a-fA-F]+|(?=.*\d)[0-9a-fA-F]{8,}"),
            ("duration", r"\d+(?:\.\d+)?\s?(?:ns|us|ms|s|secs?|m|mins?|h|hrs?|d)"),
            ("size", r"\d+(?:\.\d+)?\s?(?:(?:[KMGTPk]i?)?[bB]|[kKMGT]|[bB]ytes?)"),
            ("time", r"\d{4}-\d\d-\d\d[T ]\d\d:.*|\d{1,2}:\d\d:\d\d(?:[.,]\d+)?|[A-Z][a-z]{2},? .*\d\d:\d\d.*"),
            ("url", r"[A-Za-z][A-Za-z0-9+.-]*://.*"),
            ("path", r"(?:[A-Za-z]:)?[^\s/\\]*(?:[/\\][^/\\]*)+"),
            ("word", r"[A-Za-z_-]+"),
        )
    )
)
_OF_MASK: Final = {"host": "host", "str": "text", "obj": "object", "list": "list", "lines": "lines", "url": "url"}
_ATTACHED_UNIT: Final = re.compile(r"\d\s?([A-Za-z]+)$")
#: Words after a number that are its unit, and the type they give it.
_UNITS: Final = {
    **dict.fromkeys(("ns", "us", "ms", "s", "sec", "secs", "second", "seconds", "minute", "minutes"), "duration"),
    **dict.fromkeys(("millis", "milliseconds", "microseconds", "nanoseconds", "hours", "days"), "duration"),
    **dict.fromkeys(("b", "byte", "bytes", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib"), "size"),
    "%": "ratio",
    "percent": "ratio",
}
#: Words that name nothing by themselves: the name is the word before them.
_LINKS: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "in",
        "on",
        "at",
        "with",
        "and",
        "or",
        "as",
        "than",
        "after",
        "took",
        "equals",
        "than",
    ]
)
_SLUG_WORDS: Final = 6
_SLUG_CHARS: Final = 60
_DEFAULT: Final = MaskParams()
#: What layouts do not allow for, wherever a mask may find it: a quoted sentence before a key, less than a unit, rows of dots
#: and of readings, Windows paths. Such messages are traced.
_TRACED_ONLY: Final = re.compile(r"\" [A-Za-z][A-Za-z0-9_]*=|<[0-9]|\.\.|:\\|[(\[](?: |\*|[-0-9<][^\s()\[\]]* )")
_MAX_LAYOUTS: Final = 8


class Parameter(NamedTuple):
    """One value of a message that its template does not fix.

    Attributes:
        position: its place among the parameters of the message, from 0.
        name: the key or word beside it; None if there is none.
        type: int, float, ip, mac, uuid, hex, path, url, host, time, duration, size, ratio, word, id, text, …
        unit: such as ms or bytes; None if none is written.
        value: as it stands in the message.
    """

    position: int
    name: str | None
    type: str
    unit: str | None
    value: str

    def to_dict(self) -> dict[str, int | str | None]:
        """The parameter as JSON values."""
        return {"position": self[0], "name": self[1], "type": self[2], "unit": self[3], "value": self[4]}


class _Field(NamedTuple):
    """What one parameter of a template is, whatever its value; `unit` is the word after it and the type that word gives."""

    name: str | None
    mask: str
    unit: tuple[str, str] | None

    def read(self, position: int, value: str) -> Parameter:
        """The parameter with this value."""
        bare = _bare(value, self.mask)
        kind, unit = _kind(self.mask, bare, self.unit)
        return Parameter(position, self.name, kind, unit, bare)


class _Layout(NamedTuple):
    """How messages of a template are written, with as many tokens as the template has, and what their values are."""

    pattern: re.Pattern[str]
    fields: tuple[_Field, ...]


class _Plan:
    """The layouts met so far of one template; a memo, which changes no answer."""

    __slots__ = ("layouts", "traced")

    def __init__(self) -> None:
        self.layouts: tuple[_Layout, ...] = ()
        self.traced = 0


def parameters(tokens: Sequence[str], message: str, params: MaskParams = _DEFAULT) -> list[Parameter]:
    """The parameters of a message, given the tokens of its template.

    Empty where the template does not fit the message, as with an overflow template.

    >>> found = parameters(("read", "size=", "<num>", "from", "<ip>", "in", "<num>", "ms"), "read size=512 from 10.0.0.7 in 35 ms")
    >>> [(one.name, one.type, one.unit, one.value) for one in found]
    [('size', 'int', None, '512'), ('from', 'ip', None, '10.0.0.7'), (None, 'duration', 'ms', '35')]
    """
    is_default = params.masks == DEFAULT_MASKS and params.shapes == DEFAULT_SHAPES  # what layouts are right for
    is_plain = is_default and _TRACED_ONLY.search(message) is None
    if not is_plain or len(message) > params.max_chars or len(tokens) >= params.max_tokens:
        return traced_parameters(tokens, message, params)
    plan = _plan(tuple(tokens))
    for pattern, fields in plan.layouts:
        match = pattern.fullmatch(message)
        if match:
            return [field.read(at, value) for at, (field, value) in enumerate(zip(fields, match.groups(), strict=True))]
    return _learn(plan, tokens, message, params)


def traced_parameters(tokens: Sequence[str], message: str, params: MaskParams = _DEFAULT) -> list[Parameter]:
    """The answer of `parameters`, found by tracing the masks through the message."""
    return [field.read(at, value) for at, (field, value, _) in enumerate(_traced(tokens, message, params))]


def _traced(tokens: Sequence[str], message: str, params: MaskParams) -> list[tuple[_Field, str, Group]]:
    """Each parameter with the text it stands for, and where in the message that lies."""
    pieces = trace(message, params)
    template = [token for token in tokens if token != CUT]
    if len(pieces) != len(template):
        return []
    found = []
    for place, (token, piece) in enumerate(zip(template, pieces, strict=True)):
        unit = _unit(template[place + 1]) if place + 1 < len(template) else None
        for before, mask, value, group in _values(token, piece):
            found.append((_Field(_name(before, template[:place]), mask, unit), value, group))
    return found


def _learn(plan: _Plan, tokens: Sequence[str], message: str, params: MaskParams) -> list[Parameter]:
    """Trace a message; now and then keep its layout.

    A pattern costs some ten times what tracing costs, so one is made only of a template that comes again, and ever more
    rarely where earlier ones did not match: at the 2nd, 4th, 8th … traced message.
    """
    found = _traced(tokens, message, params)
    plan.traced += 1
    is_due = plan.traced > 1 and plan.traced & (plan.traced - 1) == 0
    if is_due and CUT not in message and CUT not in tokens:
        pattern = layout(message, [group for _, _, group in found])
        match = pattern.fullmatch(message) if pattern else None
        if pattern and match and list(match.groups()) == [value for _, value, _ in found]:
            new = _Layout(pattern, tuple(field for field, _, _ in found))
            plan.layouts = (new, *plan.layouts[: _MAX_LAYOUTS - 1])
    return [field.read(at, value) for at, (field, value, _) in enumerate(found)]


@lru_cache(maxsize=1024)  # a pattern takes some 10 bytes a character: mostly 5 MB in all, 80 MB at the very worst
def _plan(tokens: tuple[str, ...]) -> _Plan:
    return _Plan()


def slug(tokens: Sequence[str]) -> str:
    """A short readable name of a template: its first plain words.

    >>> slug(("Receiving", "block", "<id>", "src:", "<ip>", "dest:", "<ip>"))
    'receiving-block-src-dest'
    """
    return _slug(tuple(tokens))


@lru_cache(maxsize=4096)
def _slug(tokens: tuple[str, ...]) -> str:
    words: list[str] = []
    for token in tokens:
        words += re.findall(r"[^\W\d_]{2,}", PLACEHOLDER.sub(" ", token).lower())
    text = "-".join(words[:_SLUG_WORDS])
    return text[:_SLUG_CHARS].strip("-") or "values-only"


def _values(token: str, piece: Piece) -> list[tuple[str, str, str, Group]]:
    """(what stands before it in the token, mask, text, place) of each parameter of one token."""
    values = tuple(Value(hole.at, hole.at + len(hole.value), hole.mask) for hole in piece.holes)
    if token != PARAMETER:
        return [
            (piece.token[: hole.start], hole.mask, hole.value, Group(value.start, value.end, (value,)))
            for hole, value in zip(piece.holes, values, strict=True)
        ]
    core = piece.token.strip(PUNCTUATION.replace("<", "").replace(">", ""))
    mask = core[1:-1] if PLACEHOLDER.fullmatch(core) else WORD
    return [("", mask, piece.raw, Group(piece.at, piece.at + len(piece.raw), values))]


def _bare(value: str, mask: str) -> str:
    """A value without the punctuation of the sentence around it."""
    if mask in ("obj", "list", "lines"):
        return value.strip()
    bare = value.strip().rstrip(",;:.").strip("\"'")
    while bare and bare[0] + bare[-1] in ("()", "[]"):
        bare = bare[1:-1]
    for opening, closing in ("()", "[]"):
        if bare.endswith(closing) and opening not in bare:
            bare = bare[:-1]
        if bare.startswith(opening) and closing not in bare:
            bare = bare[1:]
    return bare or value.strip()


def _name(before: str, template: Sequence[str]) -> str | None:
    """The key in front of a value, or the nearest word that names something."""
    key = _KEY.search(before)
    if key:
        return key.group(1)
    for token in reversed(template[-3:]):
        if PLACEHOLDER.search(token):
            return None
        word = token.strip(PUNCTUATION)
        if token.endswith(("=", ":")) and word:
            return word
        if _WORD.match(word) and word.lower() not in _LINKS:
            return word
    return None


def _unit(after: str) -> tuple[str, str] | None:
    """A unit and the type it gives, if that is what stands after a number."""
    word = after.strip(PUNCTUATION)
    return (word, _UNITS[word.lower()]) if word.lower() in _UNITS else None


def _kind(mask: str, value: str, after: tuple[str, str] | None) -> tuple[str, str | None]:
    """Type and unit of a value."""
    kind = _OF_MASK.get(mask)
    if kind is None:
        match = _TYPES.fullmatch(value)
        kind = match.lastgroup if match else None
    if kind is None:
        kind = "id" if any(char.isdigit() for char in value) else "text"
    if kind in ("duration", "size"):
        unit = _ATTACHED_UNIT.search(value)
        return kind, unit.group(1) if unit else None
    if after and kind in ("int", "float"):
        word, kind = after
        return kind, word
    return kind, None
