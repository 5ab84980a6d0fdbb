"""Source records to log records, a batch at a time.

```
values ─ shapes ─→ drafts ─ checked ─→ columns: clean → unwrap → sessions → redact → cut ─→ Records
           └→ rejects ←──────┴──────────────────────┘
```
Flat JSON takes the short way: one plan for each set of keys (`Fields.getter`). All else takes the long one
(`Shapes.outcomes`), a message at a time. Behind the drafts everything is done for whole columns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson

from models.errors import RecordError
from models.parsing.columns import Batch, Columns
from models.parsing.fields import ABSENT, Absent, Draft, Fields
from models.parsing.params import Int64, ParseParams, Raw, Records, Reject
from models.parsing.redaction import redactor_of
from models.parsing.shapes import Shapes
from models.parsing.timecolumns import INVALID_MS, column_times

# What a plain line may begin with: all that can be seen but { [ and ".
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(b'{["')
# The types that the columns take of text, service, level, host and session.
_KINDS: Final[tuple[tuple[int, frozenset[type]], ...]] = (
    (1, frozenset({str})),
    (2, frozenset({str, Absent})),
    (3, frozenset({str, int, Absent})),
    (4, frozenset({str, Absent})),
    (5, frozenset({str, int, Absent})),
)


class Parser:
    """The settings, compiled, with the caches that go with them; made once by `parser_of`.

    State: plans by set of keys, names by raw name, levels by raw level, each bounded where it is kept. Dropping any of
    them at any time changes no output.
    """

    def __init__(self, params: ParseParams) -> None:
        self._params = params
        self._clock = params.clock
        self._redactor = redactor_of(params.redaction, params.redaction_key)
        self._fields = Fields(params)
        self._shapes = Shapes(self._fields)
        self._columns = Columns(params, self._fields, self._redactor)

    def parse(self, raw: Raw) -> tuple[Records, list[Reject]]:
        """Gives the records of a batch, and the messages and parts of messages that are none."""
        rejects: list[Reject] = []
        drafts, rows, indexes, long_way = self._drafts(raw, rejects)
        row, index = np.array(rows, np.int32), np.array(indexes, np.int32)
        if not drafts:
            return _no_records(), rejects
        reference = np.asarray(raw.timestamp_ms, np.int64)[row]
        times, gone = self._check(raw, drafts, rows, long_way, reference, rejects)
        _, text, service, level, host, session = zip(*drafts, strict=True)
        columns, levels, size = self._columns, self._columns.levels, self._params.max_name_chars
        batch = Batch(
            list(text),
            times,
            np.fromiter([levels[value] for value in level], np.uint8, len(level)),
            columns.names(service, size),
            columns.names(host, size),
            columns.names(session, self._params.max_session_chars),
        )
        long = columns.clean(batch)
        columns.unwrap(batch, reference)
        columns.find_sessions(batch)
        columns.redact(batch, long)
        default = self._params.default_service
        records = Records(
            row,
            index,
            np.where(batch.ts < 0, np.maximum(reference, 0), batch.ts),
            [name or default for name in batch.service],
            batch.level,
            batch.host,
            batch.session,
            batch.message,
        )
        for place in columns.blank(batch).tolist():
            if place not in gone:
                error = RecordError("empty", "parse", "the text of the record is blank")
                rejects.append(self._reject(raw, rows[place], indexes[place], error))
                gone.add(place)
        if rejects:
            rejects.sort(key=lambda reject: (reject.row, reject.index))
        return (_without(records, gone) if gone else records), rejects

    def _drafts(self, raw: Raw, rejects: list[Reject]) -> tuple[list[Draft], list[int], list[int], set[int]]:
        """Gives a draft for each record, its row, its index in the message, and the places that went the long way."""
        drafts: list[Draft] = []
        rows: list[int] = []
        others: dict[int, int] = {}
        loads, plans, getter_of = orjson.loads, self._fields.plans, self._fields.getter
        for row, value in enumerate(raw.values):
            if value and value[0] == 0x7B:  # an opening brace
                try:
                    record = loads(value)
                except ValueError:
                    record = None
                if record is not None:
                    keys = tuple(record)
                    getter = plans[keys] if keys in plans else getter_of(record)
                    if getter is not None:
                        record[None] = ABSENT
                        drafts.append(getter(record))
                        rows.append(row)
                        continue
            elif value and value[0] in _PLAIN and value.isascii():
                text = value.decode()
                if " " in text and text.isprintable():  # else it may be a JSON scalar, or binary
                    drafts.append((ABSENT, text, ABSENT, ABSENT, ABSENT, ABSENT))
                    rows.append(row)
                    continue
            for index, outcome in enumerate(self._shapes.outcomes(value)):
                if isinstance(outcome, RecordError):
                    rejects.append(self._reject(raw, row, index, outcome))
                else:
                    others[len(drafts)] = index
                    drafts.append(outcome)
                    rows.append(row)
        indexes = [0] * len(drafts)
        for place, index in others.items():
            indexes[place] = index
        return drafts, rows, indexes, set(others)

    def _check(
        self,
        raw: Raw,
        drafts: list[Draft],
        rows: list[int],
        long_way: set[int],
        reference: Int64,
        rejects: list[Reject],
    ) -> tuple[Int64, set[int]]:
        """Gives the times, and the places of drafts that turned out to be none; mends the other drafts in place.

        The short way takes the first field of each kind as it is. Where that is null, blank, of another type or no
        time, the long way finds the next one, or that there is none.
        """
        columns: list[tuple[Any, ...]] = list(zip(*drafts, strict=True))
        times = column_times(list(columns[0]), reference, self._clock)
        odd = set(np.flatnonzero(times == INVALID_MS).tolist())
        for slot, kinds in _KINDS:
            if not kinds.issuperset(map(type, columns[slot])):
                odd.update(place for place, value in enumerate(columns[slot]) if type(value) not in kinds)
        for blank in ("", "\n"):
            if blank in columns[1]:
                odd.update(place for place, value in enumerate(columns[1]) if value == blank)
        odd -= long_way
        if len(odd) * 8 > len(drafts):  # the records have changed their kind; plan anew from the next ones
            self._fields.plans.clear()
        gone: set[int] = set()
        for place in sorted(odd):
            value = raw.values[rows[place]] or b""
            try:
                drafts[place] = self._fields.draft(orjson.loads(value))
            except RecordError as error:
                rejects.append(self._reject(raw, rows[place], 0, error))
                drafts[place] = (ABSENT, "", ABSENT, ABSENT, ABSENT, ABSENT)
                gone.add(place)
        if odd:
            places = sorted(odd)
            times[places] = column_times([drafts[place][0] for place in places], reference[places], self._clock)
        return times, gone

    def _reject(self, raw: Raw, row: int, index: int, error: RecordError) -> Reject:
        value = raw.values[row] or b""
        redacted = self._redactor.redact_bytes(value, self._params.max_reject_bytes)
        return Reject(row, index, error.reason, error.stage, error.detail, redacted, self._redactor.digest(value))


def _without(records: Records, gone: set[int]) -> Records:
    """Gives the records but for some places."""
    keep = np.delete(np.arange(len(records)), sorted(gone))
    places = keep.tolist()
    return Records(
        records.row[keep],
        records.index[keep],
        records.ts[keep],
        [records.service[place] for place in places],
        records.level[keep],
        [records.host[place] for place in places],
        [records.session[place] for place in places],
        [records.message[place] for place in places],
    )


def _no_records() -> Records:
    none = np.zeros(0, np.int32)
    return Records(none, none, np.zeros(0, np.int64), [], np.zeros(0, np.uint8), [], [], [])


@lru_cache(maxsize=8)
def parser_of(params: ParseParams) -> Parser:
    """Gives the parser for some settings; the same one for the same settings."""
    return Parser(params)


def parse(raw: Raw, params: ParseParams) -> tuple[Records, list[Reject]]:
    """Gives the records of a batch of source messages, and what is no record; never raises for what a message holds.

    Each message ends as at least one record or as exactly one reject; a message of several records (OTLP, lists,
    objects one a line) as one record or one reject for each.

    >>> raw = Raw([b'{"level":"warn","service":"api","msg":"slow"}', None], "logs", np.zeros(2, np.int32),
    ...           np.arange(2), np.array([1_700_000_000_000] * 2))
    >>> records, rejects = parse(raw, ParseParams())
    >>> records.service, records.message, records.level.tolist(), [r.reason for r in rejects]
    (['api'], ['slow'], [4], ['tombstone'])
    """
    return parser_of(params).parse(raw)
