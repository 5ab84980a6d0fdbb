"""A batch on its way through a shard: its columns as detectors see them, and what people want to hear of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from models.deeplog import UNKNOWN
from models.detectors.contract import Ends, Seen
from models.detectors.rows import Places
from models.fusion import SUSPECT
from models.incidents import Suspects
from models.judge import Judge, Judged
from models.packing import Lines
from models.patterns import Oddity, note, silence
from models.said import Wanted
from models.services import Services
from models.verdicts import Place
from models.windows import WindowStep, service_key

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
T = TypeVar("T", bound=np.generic)

_OVER: Final = 0.01  # more than rounding can take away


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch on its way through `Shard.step`; `lives` are the rows of its services, `is_withheld` says what training must not see."""

    lines: Lines
    service: Int32
    service_keys: npt.NDArray[np.uint64]
    seq: Int32
    seen: WindowStep
    places: Sequence[Place]
    lives: Places
    is_withheld: npt.NDArray[np.bool_]

    def shown(self, classes: Int32, rows: Int64, ends: Int64) -> Seen:
        """The lines and ends of one model, as its detectors see them."""
        lines, seen, ended = self.lines, self.seen, self.seen.ended
        is_all = len(rows) == len(lines)

        def of(column: npt.NDArray[T]) -> npt.NDArray[T]:
            return column if is_all else column[rows]

        return Seen(
            code=classes[of(self.seq)],
            windows=classes[of(seen.windows)],
            seq=of(self.seq),
            ts=of(lines.ts),
            now=of(seen.now),
            level=of(lines.level),
            key=of(lines.group),
            service=self.service_keys[of(self.service)],
            has_session=of(lines.session) >= 0,
            is_late=of(seen.is_late),
            text=of(lines.text),
            texts=_Texts(lines.texts),
            message=lines.messages if is_all else lines.messages.take(rows),
            ends=Ends(classes[ended.windows[ends]], ended.key[ends], ended.ts[ends]),
        )

    def suspects(
        self, judged: Judged, rows: Int64, ends: Int64, line: Int64, end: Int64
    ) -> tuple[Suspects, list[tuple[int, bool]]]:
        """Some of a model's lines and ends in source order; and for each its place among these and whether it is an end."""
        ended = self.seen.ended
        which = ends[end]
        where = np.concatenate((2 * rows[line], 2 * ended.line[which].astype(np.int64) + 1))
        order = np.lexsort((np.concatenate((self.lines.group[rows[line]], ended.key[which])), where))
        service = np.concatenate(
            (
                judged.seen.service[line],
                np.array([service_key(self.places[at].service) for at in which.tolist()], np.uint64),
            )
        )
        last = np.array([self.places[at].seq for at in which.tolist()], np.int64)
        found = Suspects(
            key=np.concatenate((judged.seen.key[line], ended.key[which]))[order],
            service=service[order],
            piece=np.concatenate((judged.seen.seq[line], -1 - last)).astype(np.int32)[order],
            now=np.concatenate((judged.seen.now[line], ended.ts[which]))[order],
            has_session=np.concatenate((judged.seen.has_session[line], np.ones(len(end), np.bool_)))[order],
            weight=np.zeros(len(order), np.float32),
        )
        origin = [(at, False) for at in line.tolist()] + [(at, True) for at in end.tolist()]
        return found, [origin[at] for at in order.tolist()]


class _Texts(Sequence[str]):
    """The masked texts without their service, cut when asked for: most detectors never do."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [text.partition("\0")[2] for text in self._texts[at]]
        return self._texts[at].partition("\0")[2]


class Ear:
    """What people have said, at work on the lines of one batch and model.

    Args:
        services: what was said of each.
        ids: of the shard's templates.
        model, classes: and the class that each template has with it.
        judged, batch, rows, ends: what it made of these lines and ends of the batch.
    """

    def __init__(
        self,
        services: Services,
        ids: UInt32,
        model: Judge,
        classes: Int32,
        judged: Judged,
        batch: Batch,
        rows: Int64,
        ends: Int64,
    ) -> None:
        self._services, self._ids, self._model, self._classes = services, ids, model, classes
        self._judged, self._batch, self._rows, self._ends = judged, batch, rows, ends
        self._said = {
            name: said
            for name in {*batch.lines.services, *(batch.places[at].service for at in ends.tolist())}
            if (said := services.said_of(name)) is not None
        }

    def silence(self) -> None:
        """Take out what people want to hear no more."""
        muted = {name: said for name, said in self._said.items() if said.muted}
        if not muted:
            return
        for is_end, evidence, weight in (
            (False, self._judged.line, self._judged.line_weight),
            (True, self._judged.end, self._judged.end_weight),
        ):
            changed = []
            for at in np.flatnonzero(weight.max(axis=0) >= SUSPECT).tolist():
                said = muted.get(self._service(at, is_end=is_end))
                if said is None:
                    continue
                held = silence(evidence[at], self._model.slots, self._oddity(at, is_end=is_end), said.muted)
                changed.append(at)
                if not is_end and not all(one.is_normal for one in held):
                    self._batch.is_withheld[self._rows[at]] = True
            weight[:, changed] = self._model.fusion.weight(evidence[changed])

    def want(self) -> dict[int, Wanted]:
        """Make lines heavy enough to be told that people have asked for; gives them by place."""
        found: dict[int, Wanted] = {}
        ids = self._ids[self._batch.seq[self._rows]]
        for name, said in self._said.items():
            for one in said.wanted:
                for at in np.flatnonzero(ids == one.template).tolist():
                    odd = self._oddity(at, is_end=False)
                    if self._service(at, is_end=False) == name and one.before in (None, odd.before):
                        weight = self._judged.line_weight
                        threshold = self._services.threshold_of(name, self._model)
                        weight[0, at] = max(weight[0, at], np.float32(threshold + _OVER))
                        found[at] = one
        return found

    def regroup(self, about: Suspects, lines: Sequence[tuple[int, bool]]) -> Suspects:
        """Lines of templates that the model does not know, soon after a release of their service, are one incident of that release."""
        if not any(said.deploys for said in self._said.values()):
            return about
        key, has_session = about.key.copy(), about.has_session.copy()
        for row, (at, is_end) in enumerate(lines):
            label = self.deploy(at, is_end=is_end)
            if label:
                key[row] = service_key(f"{self._service(at, is_end=is_end)}\0release {label}")
                has_session[row] = True  # it holds as long as a session's evidence
        return replace(about, key=key, has_session=has_session)

    def deploy(self, at: int, *, is_end: bool) -> str:
        """The release that a line is put down to; empty if none."""
        if is_end or int(self._judged.seen.code[at]) != UNKNOWN:
            return ""
        said = self._said.get(self._service(at, is_end=False))
        deploy = None if said is None else said.deploy_at(int(self._judged.seen.now[at]))
        return "" if deploy is None else deploy.label

    def note(self, at: int, *, is_end: bool) -> str:
        """The patterns of a line or end, with their levels."""
        evidence = (self._judged.end if is_end else self._judged.line)[at]
        return note(evidence, self._model.slots, self._oddity(at, is_end=is_end))

    def thresholds(self, service: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """The strength from which on incidents are told, for each of these service keys."""
        own = {service_key(name): self._services.threshold_of(name, self._model) for name in self._said}
        usual = self._model.fusion.threshold
        return np.fromiter((own.get(key, usual) for key in service.tolist()), np.float64, len(service))

    def _service(self, at: int, *, is_end: bool) -> str:
        batch = self._batch
        if is_end:
            return batch.places[int(self._ends[at])].service
        return batch.lines.services[int(batch.service[self._rows[at]])]

    def _oddity(self, at: int, *, is_end: bool) -> Oddity:
        batch, seen = self._batch, self._judged.seen
        if is_end:
            seq = batch.places[int(self._ends[at])].seq
            window, now = batch.seen.ended.windows[int(self._ends[at])], int(batch.seen.ended.ts[int(self._ends[at])])
        else:
            line = int(self._rows[at])
            seq, window, now = int(batch.seq[line]), batch.seen.windows[line], int(seen.now[at])
        known = [one for one in window.tolist() if one >= 0]
        return Oddity(
            template=int(self._ids[seq]),
            before=int(self._ids[known[-1]]) if known and not is_end else None,
            now_ms=now,
            is_end=is_end,
            is_unknown=not is_end and int(seen.code[at]) == UNKNOWN,
            unknown_before=[int(self._ids[one]) for one in known if self._classes[one] == UNKNOWN],
        )
