"""From source records to what detectors learn from: the training lines as the job would show them, and which of them are held out.

```
records ─ parse, mask, mine (as the job does) ─→ Gathered ─ by service ─→ classes, windows, ends of sessions ─→ Corpus
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.batch import BatchParams
from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import Corpus, Ends, Seen
from models.joining import without_parts
from models.packing import unpack
from models.parsing import Raw
from models.templates import OVERFLOW_ID, ShardTemplates, TemplateParams
from models.traces import TraceParams
from models.windows import WindowParams, service_key

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]

IsTraining = Callable[[Int64, Int32, list[str]], Bools]  # (ts, session, sessions) → which lines; as DataSet.is_training

_SESSIONS: Final = 1 << 24  # training forgets no session for want of room
_FEW: Final = 20  # with fewer sessions than this the split is by lines
_FEW_WAITS: Final = 20  # with fewer silences seen after a template, the longest of all templates stands in


@dataclass(frozen=True, slots=True)
class Part:
    """Some training lines in source order.

    Shapes: all [N]; `service` is an index into the services of the collector, `text` into `texts`.
    """

    seq: Int32
    ts: Int64
    level: UInt8
    group: UInt64
    service: Int32
    has_session: Bools
    text: Int32
    texts: Sequence[str]
    message: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.seq)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Part:
        """These lines."""
        columns = {
            name: getattr(self, name)[rows]
            for name in ("seq", "ts", "level", "group", "service", "has_session", "text")
        }
        return replace(self, **columns, message=self.message.take(pa.array(rows)))


class MinedTemplates(Protocol):
    """The templates of gathered lines; models.templates.ShardTemplates are such, and those of a training buffer."""

    @property
    def ids(self) -> npt.NDArray[np.uint32]:
        """The external id of each template, by seq."""
        ...

    def template(self, seq: int) -> str:
        """The text of a template."""
        ...

    def export(self, service: str) -> list[dict[str, Any]]:
        """The templates of a service, as an artefact keeps them."""
        ...


class Gathered(Protocol):
    """Training lines of some services, with their templates."""

    @property
    def services(self) -> list[str]:
        """The services, by index."""
        ...

    @property
    def parts(self) -> Sequence[Part]:
        """The lines in source order, cut anywhere."""
        ...

    @property
    def templates(self) -> MinedTemplates:
        """The templates, by seq."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some of the gathered lines; a `Gathered`."""

    services: list[str]
    parts: Sequence[Part]
    templates: MinedTemplates


def without(gathered: Gathered, keys: UInt64) -> Chosen:
    """The gathered lines but for those of some sessions."""
    parts = [part.take(np.flatnonzero(~np.isin(part.group, keys))) for part in gathered.parts]
    return Chosen(gathered.services, parts, gathered.templates)


class LineCollector:
    """Gathers training lines, mining their templates on the way as the job does.

    State: about 40 bytes and the message a line, at most `max_lines`; later ones are counted in `left_out`.
    """

    def __init__(
        self,
        batching: BatchParams,
        templates: TemplateParams,
        max_lines: int,
        is_training: IsTraining | None = None,
        service: str | None = None,
        traces: TraceParams | None = None,
    ) -> None:
        self._batcher = batching.build()
        self._traces = None if traces is None else traces.build()
        self.templates: ShardTemplates = templates.build()
        self._max_lines = max_lines
        self._is_training = is_training
        self._only = service
        self._service_of: dict[str, int] = {}
        self.parts: list[Part] = []
        self.count = 0
        self.left_out = 0
        self.rejected = 0

    @property
    def services(self) -> list[str]:
        """The services seen, by index."""
        return list(self._service_of)

    def lines_by_service(self) -> Int64:
        """How many lines each service has."""
        count = np.zeros(len(self._service_of), np.int64)
        for part in self.parts:
            count += np.bincount(part.service, minlength=len(count))
        return count

    def add(self, raw: Raw) -> None:
        """Take one batch of source records."""
        for _, blob in self._batcher.step(raw):
            lines = unpack(blob)
            self.rejected += len(lines.rejects)
            if self._traces is not None:
                lines = without_parts(self._traces, lines)
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
            self.parts.append(
                Part(
                    seq=placed.seq,
                    ts=lines.ts[rows],
                    level=lines.level[rows],
                    group=lines.group[rows],
                    service=number[service[rows]],
                    has_session=lines.session[rows] >= 0,
                    text=lines.text[rows],
                    texts=[text.partition("\0")[2] for text in lines.texts],
                    message=lines.messages.take(pa.array(rows)),
                )
            )


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one model learns from.

    Attributes:
        vocabulary: template id by class, 0 for padding and unknown; the end class comes after the last.
        wait_ms: by class, the longest silence that is normal after such a line of a session; -1 for any.
        corpus: the lines.
        unit: of each line of the corpus its unit, the session, or the line itself where it has none; numbered by first line.
        end_unit: of each end.
        is_held: whether a line is held out from networks: those of the last units.
    """

    vocabulary: tuple[int, ...]
    wait_ms: tuple[int, ...]
    corpus: Corpus
    unit: Int64
    end_unit: Int64
    is_held: Bools


def lesson(gathered: Gathered, services: Sequence[int], windows: WindowParams, held_out_ratio: float) -> Lesson:
    """What one model learns from the lines of some services.

    What holds a template that the fit part lacks is not held out: a template seen in training is never new.

    Args:
        gathered: all lines.
        services: indices of those the model is for.
        windows: length and gap.
        held_out_ratio: share of the sessions, or lines, held out.
    """
    ids = gathered.templates.ids
    chosen = np.array(services, np.int32)
    parts = [part.take(np.flatnonzero(np.isin(part.service, chosen))) for part in gathered.parts]
    parts = [part for part in parts if len(part)]
    used = np.unique(np.concatenate([np.unique(part.seq) for part in parts]))
    vocabulary = [0, 0, *sorted({int(ids[seq]) for seq in used.tolist()} - {OVERFLOW_ID})]
    code_of = {number: code for code, number in enumerate(vocabulary) if code >= FIRST_TEMPLATE}
    # By seq; the last place, which -1 picks, is padding.
    classes = np.array([*(code_of.get(int(number), UNKNOWN) for number in ids), PADDING], np.int32)
    names = [""] * len(vocabulary)
    for seq in used.tolist():
        code = int(classes[seq])
        names[code] = names[code] or (gathered.templates.template(seq) if code >= FIRST_TEMPLATE else "")

    group = np.concatenate([part.group for part in parts])
    has_session = np.concatenate([part.has_session for part in parts])
    seq = np.concatenate([part.seq for part in parts])
    ts = np.concatenate([part.ts for part in parts])
    unit, unit_of_key = _units(group, has_session)
    wait = _waits(classes[seq], ts, group, has_session, len(vocabulary))
    batches = shown(parts, classes, wait, gathered.services, windows)
    end_unit = np.array([unit_of_key[key] for seen in batches for key in seen.ends.key.tolist()], np.int64)
    is_held = _held_out(unit, has_session, held_out_ratio)
    code = classes[seq]
    is_foreign = is_held & ~np.isin(code, np.unique(code[~is_held]))
    is_held &= ~np.isin(unit, unit[is_foreign])
    return Lesson(
        tuple(vocabulary),
        tuple(wait.tolist()),
        Corpus(batches, names, windows.length, is_held),
        unit,
        end_unit,
        is_held,
    )


def _units(group: UInt64, has_session: Bools) -> tuple[Int64, dict[int, int]]:
    """Each line's unit, numbered by the place of its first line; and the unit of each session by key."""
    keys, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    place = np.where(has_session, first[inverse.ravel()], np.arange(len(group)))
    return place.astype(np.int64), dict(zip(keys.tolist(), first.tolist(), strict=True))


def _held_out(unit: Int64, has_session: Bools, ratio: float) -> Bools:
    """Which lines are held out: the last sessions by first line, and the last lines without session."""
    is_held = np.zeros(len(unit), np.bool_)
    for part in (has_session, ~has_session):
        places = np.flatnonzero(part)
        units = np.unique(unit[places])
        if len(units) < _FEW and len(places) >= _FEW:  # too few sessions to split: the last lines
            is_held[places[len(places) - int(len(places) * ratio) :]] = True
            continue
        later = units[len(units) - int(len(units) * ratio) :]
        is_held[places[np.isin(unit[places], later)]] = True
    return is_held


def _waits(code: Int32, ts: Int64, group: UInt64, has_session: Bools, end: int) -> Int64:
    """By class, twice the longest silence (and ten seconds) seen after it inside a session; -1 without sessions."""
    factor, slack_ms = 2, 10_000
    wait = np.full(end, -1, np.int64)
    part = np.flatnonzero(has_session)
    order = part[np.argsort(group[part], kind="stable")]
    follows = group[order[1:]] == group[order[:-1]]
    if not follows.any():
        return wait
    before, after = order[:-1][follows], order[1:][follows]
    silence = np.maximum(ts[after] - ts[before], 0)
    longest = np.full(end, -1, np.int64)
    np.maximum.at(longest, code[before], silence)
    seen = np.bincount(code[before], minlength=end)
    longest[seen < _FEW_WAITS] = silence.max()
    wait[UNKNOWN:] = longest[UNKNOWN:] * factor + slack_ms
    return wait


def shown(
    parts: Sequence[Part], classes: Int32, wait_ms: Int64, services: Sequence[str], params: WindowParams
) -> list[Seen]:
    """The parts as detectors see them.

    Args:
        parts: lines in source order.
        classes: by seq, and last the padding.
        wait_ms: silence after a line of each class that is normal in a session; -1 for any.
        services: names by index.
        params: length and gap.
    """
    windows = WindowParams(params.length, params.session_gap_ms, max_sessions=_SESSIONS).build()
    keys = np.array([service_key(name) for name in services], np.uint64)
    found = []
    for part in parts:
        code = classes[part.seq]
        allowed = np.where(part.has_session, wait_ms[code], -1)
        step = windows.step(part.group, part.seq, part.ts, part.service, services, allowed)
        windows.touched()
        ended = step.ended
        found.append(
            Seen(
                code=code,
                windows=classes[step.windows],
                seq=part.seq,
                ts=part.ts,
                now=step.now,
                level=part.level,
                key=part.group,
                service=keys[part.service],
                has_session=part.has_session,
                is_late=step.is_late,
                text=part.text,
                texts=part.texts,
                message=part.message,
                ends=Ends(classes[ended.windows], ended.key, ended.ts),
            )
        )
    return found
