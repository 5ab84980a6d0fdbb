"""Where a record keeps its time, text, service, level, host and session: found once for each set of keys.

A record becomes a `Draft`, six values in a fixed order. For records with the same keys in the same order the way to
them is the same, so it is planned once and kept: for flat records one `itemgetter` call does all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import orjson

from models.errors import RecordError
from models.parsing.levels import LEVELS, normalise
from models.parsing.params import REASONS, ParseParams
from models.parsing.timestamps import field_time


class Absent:
    """The type of `ABSENT`: no field of that kind is there, as against one with a value of no use."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()
TIME, TEXT, SERVICE, LEVEL, HOST, SESSION = range(6)
# (time, text, service, level, host, session); time as found or in milliseconds, level as found or a word of LEVELS.
Draft = tuple[Any, Any, Any, Any, Any, Any]
Getter = Callable[[dict[Any, Any]], Draft]
Path = tuple[str, str]  # a key of the record and the dotted rest below it, empty for the key's own value

_MAX_PLANS: Final = 4_096
_MAX_NESTING: Final = 3  # JSON in a text in JSON …
_NOTHING: Final = frozenset({"", "-", "null", "none", "nil", "(null)", "unknown", "n/a"})
_NO_BODIES: Final = frozenset({"log", "event", "error"})  # objects of ECS that describe a record and are none
_NAME: Final = frozenset({str, Absent})
_WORD: Final = frozenset({str, int, Absent})
OTLP_KEYS: Final = frozenset(
    {"resourceLogs", "resource_logs", "resourceSpans", "resource_spans", "resourceMetrics", "resource_metrics"}
)


@lru_cache(maxsize=1024)
def _splits(path: str) -> tuple[Path, ...]:
    places = [i for i, c in enumerate(path) if c == "."]
    return tuple((path[:i], path[i + 1 :]) for i in places)


def dig(value: Any, path: str) -> Any:
    """Gives the value at a dotted path, nested, flat, or both; None if there is none.

    >>> dig({"log": {"level": "info"}, "a.b": {"c": 1}}, "log.level"), dig({"a.b": {"c": 1}}, "a.b.c")
    ('info', 1)
    """
    if not isinstance(value, dict):
        return None
    found = value.get(path)
    if found is not None:
        return found
    for head, rest in _splits(path):
        inner = value.get(head)
        if inner is not None:
            found = dig(inner, rest)
            if found is not None:
                return found
    return None


class Fields:
    """The way to the six values for any record, planned for each set of keys.

    State: `plans` and `_known`, at most 4,096 sets of keys; forgetting them changes no answer.
    """

    def __init__(self, params: ParseParams) -> None:
        self._clock = params.clock
        self._fallback_json = params.text_fallback == "json"
        self.plans: dict[tuple[str, ...], Getter | None] = {}
        self._known: dict[tuple[str, ...], list[list[Path]]] = {}
        self._index: dict[str, list[tuple[int, int, str, str]]] = {}
        names = (params.time_fields, params.text_fields, params.service_fields, params.level_fields, params.host_fields, params.session_fields)  # fmt: skip
        for slot, paths in enumerate(names):
            for rank, path in enumerate(paths):
                for head, rest in ((path, ""), *_splits(path)):
                    self._index.setdefault(head.lower(), []).append((slot, rank, head, rest))

    def getter(self, record: dict[str, Any]) -> Getter | None:
        """Gives the way to the values of records with this one's keys; None where `draft` has to look at each record.

        The record needs a key None with `ABSENT`, for what it lacks. The values are as found: the caller checks their
        types, and takes `draft` for a record whose first field of a kind is of no use. Whether `host` is a name or an
        object is taken from this record; a later one of the other kind fails the check of types.
        """
        keys = tuple(record)
        if len(self.plans) >= _MAX_PLANS:
            self.plans.clear()
        plan = self.plans[keys] = None if not OTLP_KEYS.isdisjoint(keys) else self._getter(record)
        return plan

    def paths(self, keys: tuple[str, ...]) -> list[list[Path]]:
        """Gives for each of the six the places to look at, best first."""
        known = self._known.get(keys)
        if known is not None:
            return known
        found: list[list[tuple[int, bool, str, str]]] = [[] for _ in range(6)]
        for key in keys:
            for slot, rank, head, rest in self._index.get(key.lower(), ()):
                found[slot].append((rank, key != head, key, rest))
        if len(self._known) >= _MAX_PLANS:
            self._known.clear()
        paths = self._known[keys] = [[(key, rest) for _, _, key, rest in sorted(places)] for places in found]
        return paths

    def read(self, record: dict[Any, Any], needs_text: bool = True, reference_ms: int = 0) -> Draft:
        """Gives the six values of one record, by its plan where that does; see `draft`."""
        keys = tuple(record)
        getter = self.plans[keys] if keys in self.plans else self.getter(record)
        if getter is not None:
            record[None] = ABSENT
            draft = getter(record)
            time, text, service, level, host, session = draft
            if (
                type(text) is str
                and text
                and not text.isspace()
                and type(service) in _NAME
                and type(level) in _WORD
                and type(host) in _NAME
                and type(session) in _WORD
            ):
                if time is ABSENT:
                    return draft
                found = field_time(time, reference_ms, self._clock)
                if found is not None:
                    return (found, text, service, level, host, session)
        return self.draft(record, needs_text)

    def _getter(self, record: dict[str, Any]) -> Getter | None:
        flat: list[str | None] = []
        deep: list[tuple[int, list[Path]]] = []
        paths = self.paths(tuple(record))
        texts = [key for key, rest in paths[TEXT] if not rest]
        for slot, places in enumerate(paths):
            plain = [p for p in places if not _is_other_kind(p, places, record)]
            if texts:  # the text is checked to be one, so nothing lies below it
                plain = [
                    (key, rest) for key, rest in plain if not rest or key != texts[0] or isinstance(record[key], dict)
                ]
            if not plain:
                flat.append(None)
            elif plain[0][1] or (slot >= SERVICE and len(plain) > 1) or not _is_plain(slot, plain[0][0]):
                deep.append((slot, places))  # nested, or a choice: an empty trace id gives way to a request id
                flat.append(None)
            else:
                flat.append(plain[0][0])
        if flat[TEXT] is None:
            return None
        take: Getter = itemgetter(*flat)
        if not deep:
            return take

        def get(record: dict[Any, Any]) -> Draft:
            draft = list(take(record))
            for slot, places in deep:
                draft[slot] = self._first(record, slot, places)
            return tuple(draft)

        return get

    def _values(self, record: Mapping[Any, Any], places: list[Path]) -> Iterator[tuple[str, Any]]:
        for key, rest in places:
            value = record.get(key)
            if rest:
                value = dig(value, rest)
            if value is not None:
                yield (rest.rpartition(".")[2] or key) if rest else key, value

    def _first(self, record: Mapping[Any, Any], slot: int, places: list[Path]) -> Any:
        """Gives the first value that is one, ABSENT if none is."""
        for name, value in self._values(record, places):
            if slot == LEVEL:
                code = normalise(value, "log.syslog.severity.code" if name == "code" else name)
                if code:
                    return LEVELS[code]
            elif slot == TIME:
                time = field_time(value, 0, self._clock)
                if time is not None:
                    return time
            else:
                text = as_name(value)
                if text is not None:
                    return text
        return ABSENT

    def draft(self, record: dict[Any, Any], needs_text: bool = True, depth: int = 0) -> Draft:
        """Gives the six values of a record of any kind, looking at every place; each is of use, or ABSENT.

        Raises:
            RecordError: the record has no text, though it needs one.
        """
        record.pop(None, None)
        paths = self.paths(tuple(record))
        text: Any = None
        blank = False
        objects: list[tuple[str, dict[Any, Any]]] = []
        for name, value in self._values(record, paths[TEXT]):
            if isinstance(value, dict):
                objects.append((name, value))
                continue
            text = as_text(value)
            if text is not None and text and not text.isspace():
                break
            blank = blank or text is not None
        else:
            for name, value in objects:
                if depth < _MAX_NESTING and self.paths(tuple(value))[TEXT]:
                    return self.draft(merged(value, record, name), needs_text, depth + 1)
            bodies = [value for name, value in objects if name.lower() not in _NO_BODIES]
            text = dump(bodies[0]) if bodies else ABSENT
            if text is ABSENT and needs_text:
                text = self._without_text(record, paths, blank)
        others = (self._first(record, slot, paths[slot]) for slot in (SERVICE, LEVEL, HOST, SESSION))
        return (self._first(record, TIME, paths[TIME]), text, *others)

    def _without_text(self, record: dict[Any, Any], paths: list[list[Path]], blank: bool) -> str:
        if blank:
            raise RecordError("empty", "parse", "the text of the record is blank")
        if not self._fallback_json or not record:
            raise RecordError("no_text", "parse", REASONS["no_text"])
        used = {key for slot in (TIME, SERVICE, LEVEL, HOST, SESSION) for key, rest in paths[slot][:1] if not rest}
        return dump({k: v for k, v in record.items() if k not in used} or record)


def _is_other_kind(place: Path, places: list[Path], record: dict[str, Any]) -> bool:
    """Says whether a key that may hold a name or an object with the name in it holds the other one."""
    key, rest = place
    if rest:
        return (key, "") in places and not isinstance(record[key], dict)
    return isinstance(record[key], dict)


def _is_plain(slot: int, key: str) -> bool:
    """Says whether a field's value needs no name to be understood; a level of another name may be on its own scale."""
    return slot != LEVEL or key.lower() in ("level", "log.level")


def merged(inner: dict[Any, Any], outer: Mapping[Any, Any], text_key: str) -> dict[Any, Any]:
    """Gives a record whose text was a record: the inner fields lifted beside the outer ones, which win.

    This is what Fluent Bit's `merge_log` does.
    """
    return inner | {k: v for k, v in outer.items() if k != text_key and k is not None}


def dump(value: Any) -> str:
    """Gives a value as compact JSON.

    Raises:
        RecordError: it is nested too deep.
    """
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError) as error:  # orjson: the recursion limit; half surrogates
        raise RecordError("too_deep", "parse", REASONS["too_deep"]) from error


def as_text(value: Any) -> str | None:
    """Gives a field's value as text: journald writes bytes as a list of numbers, some loggers a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and value:
        if all(type(v) is int and 0 <= v < 256 for v in value):
            return bytes(value).decode("utf-8", "replace")
        if all(isinstance(v, str) for v in value):
            return "\n".join(value)
        return dump(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def as_name(value: Any) -> str | None:
    """Gives a field's value as a name or identifier, None if it says nothing.

    >>> as_name("-"), as_name(17), as_name("00000000000000000000000000000000"), as_name("api")
    (None, '17', None, 'api')
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return str(value)
    if isinstance(value, str):
        bare = value.strip()
        return None if bare.lower() in _NOTHING or (not bare.strip("0") and len(bare) > 8) else value
    return None
