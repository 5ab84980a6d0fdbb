"""What is done to the columns of a batch once every record has a draft: clean, unwrap, sessions, redact, cut.

Each step looks at the whole column with one filter and touches the rows it finds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from models.parsing.cleaning import SPARE, clean, clean_name, cut, dirty_rows
from models.parsing.fields import ABSENT, Fields, as_name
from models.parsing.heads import PREFILTER, read_head
from models.parsing.levels import from_head, normalise
from models.parsing.params import Int64, ParseParams, UInt8
from models.parsing.redaction import Redactor

_MAX_NAMES: Final = 65_536
_MAX_LEVELS: Final = 4_096
_MAX_WRAPS: Final = 3
_MAY_HAVE_HEAD: Final = re.compile(PREFILTER)  # the same filter, for a text that comes out of another
_LEVEL_HEAD: Final = (  # Rust regex: every text in which `from_head` finds a level
    r"^[\s\W]{0,4}(?:TRACE|DEBUG|INFO|NOTICE|WARN|ERROR|SEVERE|FATAL|CRIT|EMERG|PANIC|[A-Za-z]{3,11}[:\])>]|[VDIWEFA]/)"
)


@dataclass(slots=True)
class Batch:
    """The columns of a batch while they are being made.

    Shapes: all [N]; ts int64, level uint8.
    """

    message: list[str]
    ts: Int64
    level: UInt8
    service: list[str | None]
    host: list[str | None]
    session: list[str | None]


class Levels(dict[Any, int]):
    """Level by value, as declared in a field named `level`; at most 4,096 are kept."""

    def __missing__(self, value: Any) -> int:
        if len(self) >= _MAX_LEVELS:
            self.clear()
        code = self[value] = 0 if value is ABSENT else normalise(value)
        return code


class Columns:
    """The steps, with the settings they need.

    State: names as cleaned, by raw name, 65,536 at most; forgetting them changes no output.
    """

    def __init__(self, params: ParseParams, fields: Fields, redactor: Redactor) -> None:
        self._params = params
        self._fields = fields
        self._redactor = redactor
        self._clock = params.clock
        # The pattern in brackets of its own, and the group to take: its first one, else all of it.
        self._sessions = {
            service: (f"({pattern})", 2 if re.compile(pattern).groups else 1)
            for service, pattern in dict(params.session_patterns).items()
        }
        self.levels = Levels()
        self._names: dict[Any, str | None] = {ABSENT: None, None: None}

    def names(self, values: list[Any] | tuple[Any, ...], limit: int) -> list[str | None]:
        """Gives services, hosts or sessions as short clean redacted names; None where there is none."""
        cache = self._names
        unknown = [value for value in set(values) if value not in cache]
        if len(cache) + len(unknown) > _MAX_NAMES:
            cache.clear()
            cache.update({ABSENT: None, None: None})
            unknown = list(set(values) - {ABSENT, None})
        if unknown:
            texts = [as_name(value) or "" for value in unknown]
            rows, trailing, _ = dirty_rows(texts)
            dirty = {*rows, *trailing}
            dirty.update(
                i
                for i, text in enumerate(texts)
                if len(text) > limit or "\n" in text or "\t" in text or text[:1].isspace()
            )
            for i in dirty:
                texts[i] = clean_name(texts[i], limit)
            for i, text in self._redactor.redact_column(pl.Series(texts, dtype=pl.String)).items():
                texts[i] = text
            cache.update((value, text or None) for value, text in zip(unknown, texts, strict=True))
        return [cache[value] for value in values]

    def clean(self, batch: Batch) -> dict[int, int]:
        """Cleans the messages in place; gives the length in bytes of those far too long, by row."""
        dirty, trailing, lengths = dirty_rows(batch.message)
        limit = self._params.max_line_bytes + SPARE
        long = {row: int(lengths[row]) for row in np.flatnonzero(lengths > limit).tolist()}
        for row in long:
            batch.message[row] = batch.message[row][:limit]
        for row in dirty:
            batch.message[row] = clean(batch.message[row])
        for row in trailing:
            batch.message[row] = batch.message[row].rstrip()
        return long

    def unwrap(self, batch: Batch, reference_ms: Int64) -> None:
        """Takes heads and JSON out of the messages in place; what they say fills the fields that nothing declares."""
        texts = pl.Series(batch.message, dtype=pl.String)
        for row in texts.str.contains(PREFILTER).arg_true().to_list():
            self._unwrap(batch, row, int(reference_ms[row]))
        quiet = np.flatnonzero(batch.level == 0)
        if len(quiet):
            texts = pl.Series([batch.message[row] for row in quiet.tolist()], dtype=pl.String)
            for place in texts.str.contains(_LEVEL_HEAD).arg_true().to_list():
                batch.level[quiet[place]] = from_head(batch.message[quiet[place]])

    def _unwrap(self, batch: Batch, row: int, reference_ms: int) -> None:
        text = batch.message[row]
        for _ in range(_MAX_WRAPS):
            if text[:1] == "{" or text.lstrip()[:1] == "{":
                record = _object(text)
                if record is None:
                    break
                time, inner, service, level, host, session = self._fields.read(
                    record, needs_text=False, reference_ms=reference_ms
                )
                found = None if time is ABSENT else time
                self._fill(batch, row, found, self.levels[level], service, host, session)
                if inner is ABSENT:
                    break
                text = clean(inner)
                if not _MAY_HAVE_HEAD.match(text):
                    break
            else:
                head = read_head(text, reference_ms, self._clock)
                if head is None:
                    break
                self._fill(batch, row, head.time, head.level, head.service, head.host, head.session)
                text = head.text
                if not (head.is_wrap or text[:1] == "{") or not _MAY_HAVE_HEAD.match(text):
                    break
        batch.message[row] = text.rstrip()

    def _fill(
        self, batch: Batch, row: int, time: int | None, level: int, service: Any, host: Any, session: Any
    ) -> None:
        if time is not None and batch.ts[row] < 0:
            batch.ts[row] = time
        if level and not batch.level[row]:
            batch.level[row] = level
        if batch.service[row] is None:
            batch.service[row] = self._name(service, self._params.max_name_chars)
        if batch.host[row] is None:
            batch.host[row] = self._name(host, self._params.max_name_chars)
        if batch.session[row] is None:
            batch.session[row] = self._name(session, self._params.max_session_chars)

    def _name(self, value: Any, limit: int) -> str | None:
        return self._names[value] if value in self._names else self.names([value], limit)[0]

    def find_sessions(self, batch: Batch) -> None:
        """Fills the sessions that nothing declares from the text, by the pattern of the service."""
        if not self._sessions:
            return
        rows_of: dict[str, list[int]] = {}
        for row, session in enumerate(batch.session):
            if session is None:
                service = batch.service[row] or self._params.default_service
                rows_of.setdefault(service if service in self._sessions else "*", []).append(row)
        for service, rows in rows_of.items():
            if service not in self._sessions:
                continue
            pattern, group = self._sessions[service]
            texts = pl.Series([batch.message[row] for row in rows], dtype=pl.String)
            found = texts.str.extract(pattern, group)
            for row, name in zip(rows, self.names(found.to_list(), self._params.max_session_chars), strict=True):
                batch.session[row] = name

    def redact(self, batch: Batch, long: dict[int, int]) -> None:
        """Replaces secrets in the messages in place, and cuts those that are too long."""
        texts = pl.Series(batch.message, dtype=pl.String)
        for row, text in self._redactor.redact_column(texts).items():
            batch.message[row] = text
        limit = self._params.max_line_bytes
        for row in np.flatnonzero(texts.str.len_bytes().to_numpy() > limit).tolist():
            text = batch.message[row]
            if row in long:  # its end was cut before redaction and may hold half a secret
                text = text[: -SPARE // 2]
            batch.message[row] = cut(text, limit, long.get(row, 0))

    def blank(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Gives the rows whose message is blank once it is clean."""
        if "" not in batch.message:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.array([not message for message in batch.message]))


def _object(text: str) -> dict[Any, Any] | None:
    try:
        record = orjson.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
