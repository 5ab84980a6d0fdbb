"""The state machine of one shard: packed lines in; anomalies, catalogue changes, state writes and accounts out.

```
Lines ─→ templates (Drain3) ─→ windows (by session) ─→ detectors of the service's model ─→ weights ─→ incidents ─→ anomalies
              │                     │                       │                              ▲            │    ranges of offsets scored and rejected
              └── entries, statistics ── rows ──────────────┴── state ─────────────────────┼────────────┴──→ StateWrites:
                                                            template entries + one journal entry a batch, now and then a snapshot
commands ─→ services: lives, what people said, the models in force ────────────────────────┘
```

State is written as small upserts: a batch writes the template entries that are new or changed and one journal entry with the rows it
touched. When the journal outgrows the last snapshot, a snapshot of all rows replaces it. Restoring applies them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from models.artefact import Artefact
from models.control import Command, EditTemplate, Undo
from models.deeplog import UNKNOWN
from models.detectors.contract import Evidence
from models.detectors.rows import Places
from models.fusion import SUSPECT, FusionParams
from models.incidents import Incidents, Suspects
from models.joining import without_parts
from models.judge import Judge, Judged
from models.life import LifeParams
from models.masking import mask
from models.packing import Lines
from models.parameters import parameters, slug
from models.patterns import collected
from models.reference import TemplateReference
from models.said import Known, Wanted
from models.sections import join, split
from models.services import Load, Services, no_store
from models.template_edits import NO_EDITS
from models.templates import OVERFLOW_ID, ShardTemplates, TemplateParams, template_hex
from models.traces import TraceParams, Traces
from models.training_buffer import SequenceBatch
from models.under_way import Batch, Ear
from models.verdicts import Origin, Piece, Place, Verdict, anomaly_id, render
from models.windows import WindowParams, WindowStep, service_key

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

_MIN_SNAPSHOT_BYTES: Final = 1 << 18  # below this a snapshot is not worth its write
_SHOWN: Final = 8  # pieces of evidence named in an anomaly
_MOST_PATTERNS: Final = 64  # that one command can hold (models/control.py)


Listen = Callable[[Judge, Suspects, npt.NDArray[np.float32], list[Place]], None]


@dataclass(frozen=True)
class ShardParams:
    """Everything the core needs to know, fixed while a job runs.

    Attributes:
        cluster: name of the installation; part of every anomaly id.
        templates: how templates are mined.
        windows: length and bounds of the windows.
        fusion: which detectors vote, the budget of false alerts, what counts as one incident.
        life: when a service goes from learning to shadow to live.
        traces: how stack traces are joined that come line by line; None judges each of their lines.
        is_unknown_anomalous: a template that the model has never seen may be an anomaly.
        has_sequences: template ids go to the training buffer.
        idle_ticks: calls of `tick` without a line after which a service's state is dropped.
    """

    cluster: str = ""
    templates: TemplateParams = field(default_factory=TemplateParams)
    windows: WindowParams = field(default_factory=WindowParams)
    fusion: FusionParams = field(default_factory=FusionParams)
    life: LifeParams = field(default_factory=LifeParams)
    traces: TraceParams | None = None
    is_unknown_anomalous: bool = True
    has_sequences: bool = False
    idle_ticks: int = 2_016

    def build(
        self,
        models: Mapping[str, Artefact],
        entries: Iterable[bytes] = (),
        journal: Sequence[bytes] = (),
        load: Load = no_store,
    ) -> Shard:
        """A shard, empty or as its template entries and journal say; `load` brings models that are announced while the job runs."""
        return Shard(self, models, entries, journal, load)


@dataclass(frozen=True, slots=True)
class StateWrites:
    """What the operator writes to keyed state after a batch.

    Attributes:
        entries: template entries to put, by key.
        dropped: keys of template entries to remove.
        journal: bytes to append to the journal; or, if `is_snapshot`, to replace it with.
    """

    entries: list[tuple[str, bytes]]
    dropped: list[str]
    journal: bytes
    is_snapshot: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one batch gave.

    Attributes:
        anomalies: (service, JSON) each.
        rejects: (service or topic, JSON) each, as dead letters.
        catalogue: (service and template id, JSON) of new and changed templates.
        lines: the batch itself; `ranges` accounts for it.
        sequences: template ids by service for the training buffer; None if there is no such sink.
        scored: lines judged by a model; `late`: of these, too late for their window; `unmodelled`: without a model.
        writes: what to write to state.
    """

    anomalies: list[tuple[str, bytes]]
    rejects: list[tuple[str, bytes]]
    catalogue: list[tuple[str, bytes]]
    lines: Lines
    sequences: SequenceBatch | None
    scored: int
    late: int
    unmodelled: int
    writes: StateWrites

    @property
    def ranges(self) -> bytes:
        """One JSON account of the offsets scored and rejected, or b"" for an empty batch."""
        return _account(self.lines)


class Shard:
    """All services of one shard.

    State: template entries, and a journal of rows of windows, statistics, detectors and incidents; each bounded by its params.
    """

    def __init__(
        self,
        params: ShardParams,
        models: Mapping[str, Artefact],
        entries: Iterable[bytes] = (),
        journal: Sequence[bytes] = (),
        load: Load = no_store,
    ) -> None:
        self.params = params
        self.services = Services(params.life, params.templates, params.fusion, models, load)
        self.templates: ShardTemplates = params.templates.build(entries)
        self.windows = params.windows.build()
        self.incidents: Incidents = params.fusion.incidents.build()
        self.traces: Traces | None = None if params.traces is None else params.traces.build()
        self._journal_bytes = 0
        self._snapshot_bytes = 0
        self._idle: dict[str, int] = {}
        self.listen: Listen | None = None  # for evaluation: is told of all that any one detector finds odd
        sections = [split(entry) for entry in journal]
        for name, data in (section for entry in sections for section in entry):
            if name == "windows":
                self.windows.apply(data)
            elif name == "statistics":
                self.templates.apply(data)
            elif name == "incidents":
                self.incidents.apply(data)
            elif name == "traces" and self.traces is not None:
                self.traces.apply(data)
        self.services.restore(sections)
        for service, edits in self.services.edits().items():
            self.templates.edit(service, edits)
        self._journal_bytes = sum(map(len, journal))

    # ---- one batch

    def step(self, lines: Lines) -> Step:
        """Judge one batch of lines; those that only continue a stack trace count with the line that it hangs on."""
        judged = lines if self.traces is None else without_parts(self.traces, lines)
        step = self._step(judged)
        parts = len(lines) - len(judged)
        return replace(step, lines=lines, scored=step.scored + (parts if step.scored else 0)) if parts else step

    def _step(self, lines: Lines) -> Step:
        for name in lines.services:
            self._idle[name] = 0
        placed = self.templates.step(lines.texts, lines.text, lines.ts, lines.level)
        service = lines.service_of_text[lines.text]
        service_keys = np.array([service_key(name) for name in lines.services], np.uint64)
        lives = self._meet(lines, service, service_keys)
        by_model = [
            (model, rows, model.classes(self.templates))
            for model, rows in self.services.by_model(lines.services, lives, service)
        ]
        wait_ms = np.full(len(lines), -1, np.int64)
        for model, rows, classes in by_model:
            of_session = rows[lines.session[rows] >= 0]
            wait_ms[of_session] = model.wait_ms[classes[placed.seq[of_session]]]
        seen = self.windows.step(lines.group, placed.seq, lines.ts, service, lines.services, wait_ms)
        places = [
            self._place(lines, service, placed.seq, line) if line >= 0 else Place.from_bytes(note)
            for line, note in zip(seen.ended.line.tolist(), seen.ended.notes, strict=True)
        ]
        batch = Batch(
            lines,
            service,
            service_keys,
            placed.seq,
            seen,
            places,
            lives,
            np.zeros(len(lines), np.bool_),
        )
        anomalies: list[tuple[int, str, bytes]] = []
        scored = 0
        for model, rows, classes in by_model:
            ends = [at for at, place in enumerate(places) if self.services.judge_of(place.service) is model]
            anomalies += self._verdicts(model, classes, batch, rows, np.array(ends, np.int64))
            scored += len(rows)
        self._count(lines, lives, [name for _, name, _ in anomalies])
        self._note(lines, service, placed.seq, seen, wait_ms)
        anomalies.sort(key=lambda found: found[0])
        ids = self.templates.ids
        return Step(
            anomalies=[(name, blob) for _, name, blob in anomalies],
            rejects=[(str(reject["topic"]), orjson.dumps(reject)) for reject in lines.rejects],
            catalogue=[self._describe(int(key)) for key, _ in placed.changed],
            lines=lines,
            sequences=SequenceBatch.of(
                lines.services,
                lines.topics,
                service,
                lines.topic,
                lines.partition,
                lines.offset,
                np.where(batch.is_withheld, np.uint32(OVERFLOW_ID), ids[placed.seq]),
                lines.group,
                lines.ts,
                [
                    (self.templates.service_of[int(key)], int(ids[int(key)]), self.templates.template(int(key)))
                    for key, _ in placed.changed
                ],
            )
            if self.params.has_sequences
            else None,
            scored=scored,
            late=int(seen.is_late.sum()),
            unmodelled=len(lines) - scored,
            writes=self._writes(placed.changed, []),
        )

    def _meet(self, lines: Lines, service: I32, service_keys: npt.NDArray[np.uint64]) -> Places:
        """Count a batch's lines by service and give each service its model; gives the rows of their lives."""
        count = len(lines.services)
        now = np.zeros(count, np.int64)
        np.maximum.at(now, service, lines.ts)
        return self.services.meet(lines.services, service_keys, np.bincount(service, minlength=count), now)

    def _count(self, lines: Lines, lives: Places, told: Sequence[str]) -> None:
        if told:
            at = {name: row for row, name in enumerate(lines.services)}
            mine = [at[name] for name in told if name in at]
            self.services.lives.told(lives, np.bincount(mine, minlength=len(lives)))

    def _verdicts(
        self, model: Judge, classes: I32, batch: Batch, rows: I64, ends: I64
    ) -> Iterator[tuple[int, str, bytes]]:
        """The anomalies among the lines, and the ended sessions, of one model, as (line, service, JSON)."""
        judged = model.step(batch.shown(classes, rows, ends))
        is_live = self.services.lives.judge(
            batch.lives, batch.service[rows], judged.seen.code == UNKNOWN, judged.seen.now
        )
        ids = self.templates.ids[batch.seq[rows]]
        is_mute = (ids == OVERFLOW_ID) | ((judged.seen.code == UNKNOWN) & (not self.params.is_unknown_anomalous))
        judged.line_weight[:, is_mute] = 0
        if self.listen is not None:
            self._tell(self.listen, model, judged, is_mute, batch, rows, ends)
        ear = Ear(self.services, self.templates.ids, model, classes, judged, batch, rows, ends)
        ear.silence()
        wanted = ear.want()
        batch.is_withheld[rows[judged.line_weight[0] >= SUSPECT]] = True  # not what is odd about the service as a whole
        about, lines = batch.suspects(
            judged,
            rows,
            ends,
            np.flatnonzero(judged.line_weight.max(axis=0) >= SUSPECT),
            np.flatnonzero(judged.end_weight.max(axis=0) >= SUSPECT),
        )
        about = replace(ear.regroup(about, lines), note=[ear.note(at, is_end=is_end) for at, is_end in lines])
        weight = np.array(
            [(judged.end_weight if is_end else judged.line_weight)[:, at] for at, is_end in lines], np.float32
        )
        suspects, which, is_wide = model.fusion.suspects(weight.reshape(len(lines), 2).T, about)
        threshold = ear.thresholds(suspects.service)
        named: dict[int, str] = {}  # incidents first told in this batch
        for told in self.incidents.step(suspects, threshold):
            at, is_end = lines[int(which[told.at])]
            kind = "rate" if is_wide[told.at] else "end" if is_end else "line"
            line = int(batch.seen.ended.line[ends[at]] if is_end else rows[at])
            place = batch.places[int(ends[at])] if is_end else self._place(batch.lines, batch.service, batch.seq, line)
            if kind == "rate":
                place = replace(place, session=None)
            key = int(suspects.key[told.at])
            if not told.revision:
                named[key] = anomaly_id(self.params.cluster, place.origin, "" if kind == "line" else kind)
                self.incidents.name(key, named[key])
            window = (batch.seen.ended.windows[int(ends[at])] if is_end else batch.seen.windows[line]).tolist()
            why = wanted.get(at) if kind == "line" else None
            release = ear.deploy(at, is_end=is_end) if kind == "line" else ""
            reasons = model.reasons(judged, at, is_end=is_end, is_wide=kind == "rate")
            verdict = Verdict(
                anomaly_id=named.get(key, told.origin),
                revision=told.revision,
                kind=kind,
                is_live=self.services.is_live(place.service) if is_end else bool(is_live[at]),
                is_late=not is_end and bool(judged.seen.is_late[at]),
                strength=told.strength,
                threshold=float(threshold[told.at]),
                false_per_day=model.fusion.false_per_day(told.strength),
                votes=model.votes(judged, at, is_end=is_end),
                reasons=[*_said(why, release), *reasons],
                pieces=self._pieces({piece: weight for piece, (weight, _) in told.pieces.items()}),
                patterns=collected(
                    (text for _, text in told.pieces.values()), is_rate=kind == "rate", most=_MOST_PATTERNS
                ),
                model_version=model.version,
            )
            yield line, place.service, self._render(model, place, verdict, window)

    def _tell(
        self,
        listen: Listen,
        model: Judge,
        judged: Judged,
        is_mute: npt.NDArray[np.bool_],
        batch: Batch,
        rows: I64,
        ends: I64,
    ) -> None:
        """Tell a listener of all that any choice of the detectors finds odd."""
        about, lines = batch.suspects(
            judged,
            rows,
            ends,
            np.flatnonzero((model.fusion.loudest(judged.line) >= SUSPECT) & ~is_mute),
            np.flatnonzero(model.fusion.loudest(judged.end) >= SUSPECT),
        )
        places = [
            batch.places[int(ends[at])] if is_end else self._place(batch.lines, batch.service, batch.seq, int(rows[at]))
            for at, is_end in lines
        ]
        evidence = np.array([(judged.end if is_end else judged.line)[at] for at, is_end in lines], np.float32)
        listen(model, about, evidence.reshape(len(lines), judged.line.shape[1]), places)

    def _pieces(self, pieces: Mapping[int, float]) -> list[Piece]:
        """The strongest pieces of an incident's evidence, named."""
        found = []
        for piece, weight in list(pieces.items())[:_SHOWN]:
            seq = piece if piece >= 0 else -1 - piece
            found.append(Piece(int(self.templates.ids[seq]), self.templates.template(seq), weight, is_end=piece < 0))
        return found

    def _note(self, lines: Lines, service: I32, seq: I32, seen: WindowStep, wait_ms: npt.NDArray[np.int64]) -> None:
        """Keep with each session that may end too soon what its anomaly would say of its newest line."""
        waits = wait_ms[seen.last_line] >= 0
        notes = [
            self._place(lines, service, seq, line).to_bytes() if is_waiting else b""
            for line, is_waiting in zip(seen.last_line.tolist(), waits.tolist(), strict=True)
        ]
        self.windows.put_notes(seen.rows, notes)

    def _place(self, lines: Lines, service: I32, seq: I32, line: int) -> Place:
        host, session = int(lines.host[line]), int(lines.session[line])
        return Place(
            origin=Origin(
                lines.topics[lines.topic[line]],
                int(lines.partition[line]),
                int(lines.offset[line]),
                int(lines.index[line]),
            ),
            kafka_ts=int(lines.kafka_ts[line]),
            ts=int(lines.ts[line]),
            service=lines.services[service[line]],
            host=lines.hosts[host] if host >= 0 else None,
            session=lines.sessions[session] if session >= 0 else None,
            level=int(lines.level[line]),
            message=lines.message(line),
            seq=int(seq[line]),
        )

    def _render(self, model: Judge, place: Place, verdict: Verdict, window: Sequence[int]) -> bytes:
        templates = self.templates
        tokens = templates.tokens(place.seq)
        vocabulary, names = model.artefact.vocabulary, model.artefact.names
        return render(
            place=place,
            verdict=verdict,
            template_id=int(templates.ids[place.seq]),
            template=templates.template(place.seq),
            slug=slug(tokens),
            parameters=[found.to_dict() for found in parameters(tokens, place.message, self.params.templates.masking)],
            expected=[
                {
                    "template_id": template_hex(vocabulary[code]),
                    "template": names[code],
                    "probability": round(likely, 5),
                }
                for code, likely in next((reason.expected for reason in verdict.reasons if reason.expected), ())
                if code < len(names)  # beyond is the end of the session
            ],
            context=[templates.shown(at) for at in window if at >= 0],
        )

    def _describe(self, seq: int) -> tuple[str, bytes]:
        """The catalogue entry of a template; its key compacts the topic."""
        service, number, tokens = (
            self.templates.service_of[seq],
            int(self.templates.ids[seq]),
            self.templates.tokens(seq),
        )
        key = f"{service}/{template_hex(number)}"
        return key, orjson.dumps(
            {
                "service": service,
                "template_id": template_hex(number),
                "template": self.templates.template(seq),
                "slug": slug(tokens),
                "counts_as": None if (into := self.templates.final(seq)) == number else template_hex(into),
            }
        )

    # ---- state

    def _writes(self, entries: list[tuple[str, bytes]], dropped: list[str]) -> StateWrites:
        is_snapshot = self._journal_bytes > max(_MIN_SNAPSHOT_BYTES, 2 * self._snapshot_bytes)
        sections = self._sections(is_snapshot=False)  # also where a snapshot is written: what is pending is told once
        if is_snapshot:
            sections = self._sections(is_snapshot=True)
        journal = join(sections)
        if is_snapshot:
            self._snapshot_bytes, self._journal_bytes = len(journal), 0
        else:
            self._journal_bytes += len(journal)
        return StateWrites(entries, dropped, journal, is_snapshot)

    def _sections(self, *, is_snapshot: bool) -> list[tuple[str, bytes]]:
        """The pieces of a journal entry: all rows, or those that changed."""
        windows, templates, incidents = self.windows, self.templates, self.incidents
        if is_snapshot:
            rows = (windows.to_bytes(), templates.to_bytes(), incidents.to_bytes())
        else:
            rows = (windows.touched(), templates.touched(), incidents.touched())
        found = list(zip(("windows", "statistics", "incidents"), rows, strict=True))
        if self.traces is not None:
            found.append(("traces", self.traces.to_bytes() if is_snapshot else self.traces.touched()))
        return found + self.services.sections(is_snapshot=is_snapshot)

    def tick(self) -> StateWrites:
        """Free what no verdict can see any more: sessions beyond twice the gap, services idle for `idle_ticks` ticks."""
        self.windows.expire()
        if self.traces is not None:
            self.traces.flush(max((self.windows.newest(name) or 0 for name in self._idle), default=0))
        self.incidents.expire(
            {service_key(name): now for name in self._idle if (now := self._settled(name)) is not None}
        )
        dropped: list[str] = []
        for service in [name for name, ticks in self._idle.items() if ticks >= self.params.idle_ticks]:
            dropped += self.templates.drop(service)
            self.windows.drop(service)
            self.incidents.drop(service_key(service))
            self.services.drop(service)
            del self._idle[service]
        for service in self._idle:
            self._idle[service] += 1
        self._journal_bytes = 1 << 62  # a snapshot leaves out what was freed
        return self._writes([], dropped)

    def _settled(self, service: str) -> int | None:
        """The event time before which nothing of a service comes any more; None where it has no lines."""
        newest, judge = self.windows.newest(service), self.services.judge_of(service)
        # The end of a session counts at its newest line, which may be as old as the longest wait.
        wait = 0 if judge is None else max(0, int(judge.wait_ms.max()))
        return None if newest is None else newest - wait

    # ---- commands

    def obey(self, command: Command) -> tuple[StateWrites, list[tuple[str, bytes]]]:
        """Let a command act on its service; gives what to write, and the catalogue's entries that changed."""
        concerned = self.services.obey(command, self._idle, self._known)
        entries, catalogue = [], []
        if isinstance(command, EditTemplate | Undo):
            edits = self.services.edits()
            for service in concerned:
                changed = self.templates.edit(service, edits.get(service, NO_EDITS))
                entries += [self.templates.entry(seq) for seq in changed]
                catalogue += [self._describe(seq) for seq in changed]
        return self._writes(entries, []), catalogue

    def statuses(self, at_ms: int, *, is_full: bool) -> list[tuple[str, bytes]]:
        """What is said of services, as (service, JSON): of those with news since the last call, or of all that are not idle."""
        return self.services.statuses(list(self._idle) if is_full else None, self.templates.size_of, at_ms)

    def _known(self, service: str) -> Known:
        """The templates of a service, to be asked."""
        return _Known(self.templates, service)


@dataclass(frozen=True, slots=True)
class _Known:
    """The templates of one service, to be asked."""

    templates: ShardTemplates
    service: str

    def find(self, message: str) -> int | None:
        """The id of the template of a message; None if there is none yet."""
        params = replace(self.templates.params, masking=self.templates.masking_of(self.service))
        (masked,) = mask([message], self.templates.params.masking).to_list()
        reference = TemplateReference(self.templates.export(self.service), params)
        return reference.match(self.templates.tokens_of(self.service, masked))

    def has(self, template: int) -> bool:
        """Whether there is a template of this id."""
        return self.templates.has(self.service, template)


def _said(wanted: Wanted | None, release: str) -> Iterator[Evidence]:
    """What people have said that bears on a line: that they want to be told of it, that it came with a release."""
    if wanted is not None:
        yield Evidence(f"{wanted.by} wants to be told of such lines" + (f": {wanted.why}." if wanted.why else "."))
    if release:
        yield Evidence(f"It came with the release {release}.")


def _account(lines: Lines) -> bytes:
    """The offsets of this batch, scored and rejected, as ranges by topic and partition.

    Offsets of one batch are mostly contiguous for one service only; a range is [first, last], both in it.
    """
    accounts = []
    keys = lines.topic.astype(np.int64) << 32 | lines.partition.astype(np.int64)
    for key in np.unique(keys).tolist():
        rows = keys == key
        accounts.append(
            {
                "topic": lines.topics[key >> 32],
                "partition": key & 0xFFFFFFFF,
                "scored": _ranges(lines.offset[rows]),
                "records": int(rows.sum()),
            }
        )
    if lines.rejects:
        rejected = [
            [reject["topic"], reject["partition"], reject["offset"], reject["index"]] for reject in lines.rejects
        ]
        return orjson.dumps({"accounts": accounts, "rejected": rejected})
    return orjson.dumps({"accounts": accounts, "rejected": []}) if accounts else b""


def _ranges(offsets: npt.NDArray[np.int64]) -> list[list[int]]:
    """Ascending distinct offsets as closed ranges.

    >>> _ranges(np.array([3, 4, 4, 5, 9]))
    [[3, 5], [9, 9]]
    """
    distinct = np.unique(offsets)
    cuts = np.flatnonzero(np.diff(distinct) > 1)
    first = distinct[np.concatenate(([0], cuts + 1))]
    last = distinct[np.concatenate((cuts, [len(distinct) - 1]))]
    return [[int(a), int(b)] for a, b in zip(first, last, strict=True)]
