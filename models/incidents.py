"""From the weights of single lines to incidents: what adds up in one session, or in one service within a minute.

```
weight of a line (0 for all but a few) ─→ its group: the session, or the service ─ distinct templates within the hold ─→ strength
strength ≥ threshold                   ─→ told once; again, as a revision, at each doubling
```

The same line again and again is one piece of evidence, not many; a burst of different ones adds up. What is older than the hold counts no
more, and when nothing is left the group is as new. Times are the service's own event time, so neither the cut into batches nor replay shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

_VERSION: Final = 2
_PIECES: Final = 24  # pieces of evidence kept of a group; the weakest give way


@dataclass(frozen=True)
class IncidentParams:
    """What counts as one incident.

    Attributes:
        session_hold_ms: event time for which a line's weight counts in its session …
        service_hold_ms: … and, for lines without session, in its service.
        repeat_ms: event time within which incidents of the same kind are one to a person, for the budget.
        max_groups: groups with evidence kept at most; beyond, those longest untouched give way.
    """

    session_hold_ms: int = 600_000
    service_hold_ms: int = 60_000
    repeat_ms: int = 3_600_000
    max_groups: int = 20_000

    def build(self) -> Incidents:
        """No incident yet."""
        return Incidents(self)


@dataclass(frozen=True, slots=True)
class Suspects:
    """Lines, and ends of sessions, that carry weight; in source order.

    Shapes: all [S]: `key` of the group, `service` (its key), `piece` (what counts once: template number, ends negative), `now` (service
    time, ms), `has_session`, `weight`; `note` is what the caller wants back with the piece, `()` for nothing.
    """

    key: UInt64
    service: UInt64
    piece: Int32
    now: Int64
    has_session: Bools
    weight: Float32
    note: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.now)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Suspects:
        """These only, in this order."""
        note = [self.note[row] for row in rows.tolist()] if self.note else ()
        return Suspects(
            self.key[rows],
            self.service[rows],
            self.piece[rows],
            self.now[rows],
            self.has_session[rows],
            self.weight[rows],
            note,
        )

    def rows(self, params: IncidentParams) -> Iterator[_Suspect]:
        """One by one, as plain numbers."""
        hold = np.where(self.has_session, params.session_hold_ms, params.service_hold_ms)
        columns = (self.key, self.service, self.piece, self.now, hold, self.weight)
        notes = self.note or itertools.repeat("", len(self))
        return map(_Suspect, *(column.tolist() for column in columns), notes)


@dataclass(frozen=True, slots=True)
class _Suspect:
    key: int
    service: int
    piece: int
    now: int
    hold: int
    weight: float
    note: str


@dataclass(frozen=True, slots=True)
class Told:
    """One telling of an incident.

    Attributes:
        at: the suspect that made it.
        strength: all its weight together.
        revision: 0 for the first telling.
        origin: as the caller gave it for revision 0, to name the incident by; empty at revision 0 itself.
        pieces: piece → (weight, note), the strongest first.
    """

    at: int
    strength: float
    revision: int
    origin: str
    pieces: dict[int, tuple[float, str]]


@dataclass(slots=True)
class _Group:
    service: int
    pieces: dict[int, tuple[float, int, str]] = field(default_factory=dict)  # piece → (weight, now, note)
    told: float = 0.0
    revision: int = -1
    origin: str = ""
    touched_ms: int = 0


class Incidents:
    """The groups of a shard that have evidence at hand.

    State: at most `max_groups` groups of `_PIECES` pieces, about 60 bytes each.
    """

    def __init__(self, params: IncidentParams) -> None:
        self.params = params
        self.evicted = 0
        self._groups: dict[int, _Group] = {}
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return len(self._groups)

    def step(self, suspects: Suspects, threshold: float | npt.NDArray[np.float64]) -> list[Told]:
        """Add some suspects; gives the incidents that are to be told, in order. The threshold is one for all, or one each."""
        told = []
        thresholds = np.broadcast_to(threshold, len(suspects)).tolist()
        for at, one in enumerate(suspects.rows(self.params)):
            strength, group = self._add(one)
            if strength >= thresholds[at] and strength >= 2 * group.told:
                group.told, group.revision = strength, group.revision + 1
                order = sorted(group.pieces.items(), key=lambda piece: (-piece[1][0], piece[0]))
                pieces = {name: (weight, note) for name, (weight, _, note) in order}
                told.append(Told(at, strength, group.revision, group.origin, pieces))
        return told

    def name(self, key: int, origin: str) -> None:
        """Keep what the caller calls an incident just told, for its revisions; one that gave way since has none."""
        if key in self._groups:
            self._groups[key].origin = origin

    def _add(self, one: _Suspect) -> tuple[float, _Group]:
        group = self._groups.get(one.key)
        if group is None or one.now - group.touched_ms > one.hold:
            if group is None and len(self._groups) >= self.params.max_groups:
                self._make_room()
            group = self._groups[one.key] = _Group(one.service)
        group.pieces = {name: held for name, held in group.pieces.items() if one.now - held[1] <= one.hold}
        weight, _, note = group.pieces.get(one.piece, (0.0, one.now, ""))
        if one.weight >= weight:
            weight, note = one.weight, one.note
        group.pieces[one.piece] = (weight, one.now, note)
        if len(group.pieces) > _PIECES:
            del group.pieces[min(group.pieces, key=lambda name: (group.pieces[name][0], -name))]
        group.touched_ms = max(group.touched_ms, one.now)
        self._dirty.add(one.key)
        return _strength(held[0] for held in group.pieces.values()), group

    def _make_room(self) -> None:
        order = sorted(self._groups, key=lambda key: (self._groups[key].touched_ms, key))
        gone = order[: max(1, self.params.max_groups // 8)]
        for key in gone:
            del self._groups[key]
        self._dirty.update(gone)
        self.evicted += len(gone)

    def expire(self, now: Mapping[int, int]) -> None:
        """Free the groups that no later line of their service can touch: longer than both holds before its time; `now` is by service."""
        hold = max(self.params.session_hold_ms, self.params.service_hold_ms)
        for key, group in list(self._groups.items()):
            if group.service in now and group.touched_ms < now[group.service] - hold:
                del self._groups[key]
                self._dirty.add(key)

    def drop(self, service: int) -> None:
        """Forget a service, by its key."""
        for key in [key for key, group in self._groups.items() if group.service == service]:
            del self._groups[key]
            self._dirty.add(key)

    # ---- bytes

    def touched(self) -> bytes:
        """The groups changed since the last call, for `apply`; empty when none did."""
        dirty, self._dirty = sorted(self._dirty), set()
        return self._encode(dirty) if dirty else b""

    def to_bytes(self) -> bytes:
        """All groups."""
        return self._encode(sorted(self._groups))

    def _encode(self, keys: Iterable[int]) -> bytes:
        """`u8 version ‖ JSON [[key, null] | [key, [service, pieces, told, revision, origin, touched_ms]], …]`."""
        rows: list[Any] = []
        for key in keys:
            group = self._groups.get(key)
            if group is None:
                rows.append([key, None])
                continue
            pieces = [[piece, *held] for piece, held in group.pieces.items()]
            rows.append([key, [group.service, pieces, group.told, group.revision, group.origin, group.touched_ms]])
        return bytes([_VERSION]) + orjson.dumps(rows)

    def apply(self, data: bytes) -> None:
        """Put in what `to_bytes` and then each later `touched` gave, in order.

        Raises: ValueError for bytes of another version.
        """
        if not data:
            return
        if data[0] != _VERSION:
            raise ValueError(f"incident state has version {data[0]}, this release reads {_VERSION}: see CHANGELOG.md")
        for key, row in orjson.loads(data[1:]):
            if row is None:
                self._groups.pop(key, None)
                continue
            service, pieces, told, revision, origin, touched_ms = row
            held = {piece: (weight, now, note) for piece, weight, now, note in pieces}
            self._groups[key] = _Group(service, held, told, revision, origin, touched_ms)

    def check(self) -> None:
        """Raise AssertionError unless the bounds hold."""
        assert len(self._groups) <= self.params.max_groups
        assert all(len(group.pieces) <= _PIECES for group in self._groups.values())


def _strength(weights: Iterable[float]) -> float:
    """The strongest whole, the second half, the third a third, and so on: a burst adds up, and noise that comes in pairs hardly does.

    >>> _strength([1.0, 4.0, 2.0])
    5.3333
    """
    ordered = sorted(weights, reverse=True)
    return round(sum(weight / place for place, weight in enumerate(ordered, 1)), 4)


def peaks(suspects: Suspects, params: IncidentParams) -> npt.NDArray[np.float64]:
    """The greatest strength of each incident that these suspects make, without any threshold; descending.

    Incidents of one service whose strongest piece is the same and that follow each other within `repeat_ms` are one: a person is told of it once.
    """
    groups = replace(params, max_groups=1 << 40).build()
    found: list[tuple[int, int, int, float]] = []  # (service, strongest piece, when, strength)
    current: dict[int, tuple[_Group, int]] = {}  # key → its incident and where its peak is
    for one in suspects.rows(params):
        strength, group = groups._add(one)
        if one.key not in current or current[one.key][0] is not group:
            current[one.key] = (group, len(found))
            found.append((one.service, one.piece, one.now, strength))
        at = current[one.key][1]
        if strength >= found[at][3]:
            strongest = min(group.pieces, key=lambda name: (-group.pieces[name][0], name))
            found[at] = (one.service, strongest, found[at][2], strength)
    highest: list[float] = []
    last: tuple[int, int, int] | None = None
    for service, piece, now, strength in sorted(found):
        if last is not None and last[:2] == (service, piece) and now - last[2] <= params.repeat_ms:
            highest[-1] = max(highest[-1], strength)
        else:
            highest.append(strength)
        last = (service, piece, now)
    return np.sort(np.array(highest, np.float64))[::-1]
