"""From source records to what the network learns: distinct windows with their counts, split into fit and held-out parts.

```
records ─ parse, mask, mine (as the job does) ─→ columns of lines ─ by service ─→ windows ─→ distinct (window, next) with counts
                                                                                     └ ends of sessions, by the waits of the fit part
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from models.batch import BatchParams
from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.packing import unpack
from models.parsing import Raw
from models.templates import OVERFLOW_ID, TemplateParams
from models.windows import WindowParams

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

IsTraining = Callable[[Int64, Int32, list[str]], Bools]  # (ts, session, sessions) → which lines; as DataSet.is_training

_CHUNK: Final = 50_000
_SESSIONS: Final = 1 << 24  # training forgets no session for want of room
_FEW: Final = 20  # with fewer sessions than this the split is by lines
_FEW_WAITS: Final = 20  # with fewer silences seen after a template, the longest of all templates stands in
_HASH: Final[UInt64] = np.random.default_rng(2017).integers(1, 2**64, 257, dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class Lines:
    """The training lines, in source order.

    Shapes: all [N]: `seq` (template), `ts`, `group` (session, or the service's lines without one), `service` (index), `has_session`.
    """

    seq: Int32
    ts: Int64
    group: UInt64
    service: Int32
    has_session: Bools

    def __len__(self) -> int:
        return len(self.seq)

    def of(self, services: Int32) -> Lines:
        """The lines of these services."""
        kept = np.isin(self.service, services)
        return Lines(self.seq[kept], self.ts[kept], self.group[kept], self.service[kept], self.has_session[kept])


class LineCollector:
    """Gathers training lines, mining their templates on the way as the job does.

    State: about 25 bytes a line, at most `max_lines`; later ones are counted in `left_out`.
    """

    def __init__(
        self,
        batching: BatchParams,
        templates: TemplateParams,
        max_lines: int,
        is_training: IsTraining | None = None,
        service: str | None = None,
    ) -> None:
        self._batcher = batching.build()
        self.templates = templates.build()
        self._max_lines = max_lines
        self._is_training = is_training
        self._only = service
        self._service_of: dict[str, int] = {}
        self._parts: list[Lines] = []
        self.count = 0
        self.left_out = 0
        self.rejected = 0

    @property
    def services(self) -> list[str]:
        """The services seen, by index."""
        return list(self._service_of)

    def add(self, raw: Raw) -> None:
        """Take one batch of source records."""
        for _, blob in self._batcher.step(raw):
            lines = unpack(blob)
            self.rejected += len(lines.rejects)
            service = lines.service_of_text[lines.text] if len(lines) else np.zeros(0, np.int32)
            kept = np.ones(len(lines), np.bool_)
            if self._is_training is not None:
                kept &= self._is_training(lines.ts, lines.session, lines.sessions)
            if self._only is not None:
                kept &= np.array([name == self._only for name in lines.services], np.bool_)[service]
            rows = np.flatnonzero(kept)
            self.left_out += max(0, len(rows) - (self._max_lines - self.count))
            rows = rows[: self._max_lines - self.count]
            if not len(rows):
                continue
            self.count += len(rows)
            placed = self.templates.step(lines.texts, lines.text[rows], lines.ts[rows], lines.level[rows])
            number = np.zeros(len(lines.services), np.int32)
            for at in np.unique(service[rows]).tolist():
                number[at] = self._service_of.setdefault(lines.services[at], len(self._service_of))
            self._parts.append(
                Lines(placed.seq, lines.ts[rows], lines.group[rows], number[service[rows]], lines.session[rows] >= 0)
            )

    def lines(self) -> Lines:
        """All lines gathered."""
        parts = self._parts
        return Lines(
            np.concatenate([np.zeros(0, np.int32), *(part.seq for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.ts for part in parts)]),
            np.concatenate([np.zeros(0, np.uint64), *(part.group for part in parts)]),
            np.concatenate([np.zeros(0, np.int32), *(part.service for part in parts)]),
            np.concatenate([np.zeros(0, np.bool_), *(part.has_session for part in parts)]),
        )


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct (window, next) rows of one model's lines.

    Attributes:
        vocabulary: template id by class, 0 for padding and unknown; the end class comes after the last.
        wait_ms: by class, the longest silence that is normal after such a line of a session; -1 for any.
        rows: `int32[D, h + 1]`, window then next class.
        fit_count, held_count: how often each row occurs in the fit and in the held-out part; `int64[D]`.
        held_row, held_unit, held_is_session: of each held-out example its row, its unit, and whether that unit is a session.
        sessions: sessions of the fit and of the held-out part.
    """

    vocabulary: tuple[int, ...]
    wait_ms: tuple[int, ...]
    rows: Int32
    fit_count: Int64
    held_count: Int64
    held_row: Int64
    held_unit: Int64
    held_is_session: Bools
    sessions: tuple[int, int]

    @property
    def end(self) -> int:
        """The class of a session's end."""
        return len(self.vocabulary)


def examples(lines: Lines, ids: npt.NDArray[np.uint32], windows: WindowParams, held_out_ratio: float) -> Examples:
    """What one model learns from these lines.

    The last sessions (by first line) are held out, or the last lines where there are no sessions. What holds a template that the
    fit part lacks goes to the fit part: a template seen in training is never new.

    Args:
        lines: in source order, of one service or of several that share a model.
        ids: template id by seq.
        windows: length and gap.
        held_out_ratio: share of the sessions, or lines, held out.
    """
    vocabulary = [0, 0, *sorted({int(ids[seq]) for seq in np.unique(lines.seq).tolist()} - {OVERFLOW_ID})]
    code_of = {number: code for code, number in enumerate(vocabulary) if code >= FIRST_TEMPLATE}
    end = len(vocabulary)
    # By seq; the last place, which -1 picks, is padding.
    classes = np.array([*(code_of.get(int(number), UNKNOWN) for number in ids), PADDING], np.int32)

    _, unit = np.unique(lines.group, return_inverse=True)
    unit = np.where(
        lines.has_session, unit, len(lines) + np.arange(len(lines))
    )  # a line without session is its own unit
    is_held = _held_out(lines, unit, held_out_ratio)
    fit_classes = np.unique(classes[lines.seq[~is_held]])
    is_foreign = is_held & ~np.isin(classes[lines.seq], fit_classes)
    is_held &= ~np.isin(unit, unit[is_foreign])

    wait = _waits(lines, classes, is_held, end)
    seen, ended, ended_line = _windows(lines, classes, wait, windows)
    rows = np.concatenate(
        [np.column_stack((seen, classes[lines.seq])), np.column_stack((ended, np.full(len(ended), end, np.int32)))]
    ).astype(np.int32)
    row_line = np.concatenate([np.arange(len(lines)), ended_line])
    is_taught = rows[:, -1] != UNKNOWN  # beyond the cap on templates there is nothing to predict
    rows, row_line = rows[is_taught], row_line[is_taught]
    distinct, inverse = _distinct(rows)
    row_held = is_held[row_line]
    counts = [np.bincount(inverse[part], minlength=len(distinct)) for part in (~row_held, row_held)]
    sessions = [len(np.unique(unit[part & lines.has_session])) for part in (~is_held, is_held)]
    held = row_line[row_held]
    return Examples(
        vocabulary=tuple(vocabulary),
        wait_ms=tuple(wait.tolist()),
        rows=distinct,
        fit_count=counts[0],
        held_count=counts[1],
        held_row=inverse[row_held],
        held_unit=unit[held],
        held_is_session=lines.has_session[held],
        sessions=(sessions[0], sessions[1]),
    )


def _held_out(lines: Lines, unit: Int64, ratio: float) -> Bools:
    """Which lines are held out: the last sessions by first line, and the last lines without session."""
    is_held = np.zeros(len(lines), np.bool_)
    for part in (lines.has_session, ~lines.has_session):
        places = np.flatnonzero(part)
        units, first = np.unique(unit[places], return_index=True)
        if len(units) < _FEW and len(places) >= _FEW:  # too few sessions to split: the last lines
            is_held[places[len(places) - int(len(places) * ratio) :]] = True
            continue
        later = units[np.argsort(first, kind="stable")][len(units) - int(len(units) * ratio) :]
        is_held[places[np.isin(unit[places], later)]] = True
    return is_held


def _waits(lines: Lines, classes: Int32, is_held: Bools, end: int) -> Int64:
    """By class, twice the longest silence (and ten seconds) seen after it inside a session of the fit part; -1 without sessions."""
    factor, slack_ms = 2, 10_000
    wait = np.full(end, -1, np.int64)
    part = np.flatnonzero(lines.has_session & ~is_held)
    order = part[np.argsort(lines.group[part], kind="stable")]
    follows = lines.group[order[1:]] == lines.group[order[:-1]]
    if not follows.any():
        return wait
    before, after = order[:-1][follows], order[1:][follows]
    silence = np.maximum(lines.ts[after] - lines.ts[before], 0)
    code = classes[lines.seq[before]]
    longest = np.full(end, -1, np.int64)
    np.maximum.at(longest, code, silence)
    seen = np.bincount(code, minlength=end)
    longest[seen < _FEW_WAITS] = silence.max()
    wait[UNKNOWN:] = longest[UNKNOWN:] * factor + slack_ms
    return wait


def _windows(lines: Lines, classes: Int32, wait: Int64, params: WindowParams) -> tuple[Int32, Int32, Int64]:
    """The classes before each line, and those before each end with the line it came after."""
    sessions = WindowParams(params.length, params.session_gap_ms, max_sessions=_SESSIONS).build()
    services = [str(number) for number in range(int(lines.service.max(initial=0)) + 1)]
    allowed = np.where(lines.has_session, wait[classes[lines.seq]], -1)
    seen: Int32 = np.empty((len(lines), params.length), np.int32)
    ended, ended_line = [np.zeros((0, params.length), np.int32)], [np.zeros(0, np.int64)]
    for low, high in pairwise([*range(0, len(lines), _CHUNK), len(lines)]):
        part = slice(low, high)
        step = sessions.step(
            lines.group[part], lines.seq[part], lines.ts[part], lines.service[part], services, allowed[part]
        )
        sessions.put_notes(step.rows, [(low + at).to_bytes(8, "little") for at in step.last_line.tolist()])
        sessions.touched()
        seen[part] = classes[step.windows]
        ended.append(classes[step.ended.windows])
        at = [int.from_bytes(note, "little") for note in step.ended.notes]
        ended_line.append(np.where(step.ended.line >= 0, low + step.ended.line, np.array(at, np.int64)))
    return seen, np.concatenate(ended), np.concatenate(ended_line)


def _distinct(rows: Int32) -> tuple[Int32, Int64]:
    """The distinct rows, and the number of each row among them; by a 64-bit hash, which is exact for all that memory holds."""
    keys = np.zeros(len(rows), np.uint64)
    for at in range(rows.shape[1]):
        keys += rows[:, at].astype(np.uint64) * _HASH[at]
    _, place, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[place], inverse.ravel()
