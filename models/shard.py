"""The state machine of one shard: packed lines in; anomalies, catalogue changes, state writes and accounts out.

```
Lines ─→ templates (Drain3) ─→ windows (by session) ─→ DeepLog, by the service's model ─→ anomalies
              │                     │                                                      ranges of offsets scored and rejected
              └── entries, statistics ── rows ──→ StateWrites: template entries + one journal entry a batch, now and then a snapshot
```

State is written as small upserts: a batch writes the template entries that are new or changed and one journal entry with the rows it
touched. When the journal outgrows the last snapshot, a snapshot of all rows replaces it. Restoring applies them in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson

from models.artefact import Artefact
from models.deeplog import UNKNOWN
from models.judge import Judge
from models.packing import Lines
from models.parameters import parameters, slug
from models.templates import OVERFLOW_ID, ShardTemplates, TemplateParams, template_hex
from models.training_buffer import SequenceBatch
from models.verdicts import Expected, Finding, Origin, Place, render
from models.windows import WindowParams, WindowStep

I32 = npt.NDArray[np.int32]

JOURNAL_VERSION: Final = 1
_FRAME: Final = struct.Struct("<BI")  # version, length of the window rows; the statistics rows follow
_MIN_SNAPSHOT_BYTES: Final = 1 << 18  # below this a snapshot is not worth its write


@dataclass(frozen=True)
class ShardParams:
    """Everything the core needs to know, fixed while a job runs.

    Attributes:
        cluster: name of the installation; part of every anomaly id.
        templates: how templates are mined.
        windows: length and bounds of the windows.
        is_unknown_anomalous: a template that the model has never seen is an anomaly.
        has_sequences: template ids go to the training buffer.
        idle_ticks: calls of `tick` without a line after which a service's state is dropped.
    """

    cluster: str = ""
    templates: TemplateParams = field(default_factory=TemplateParams)
    windows: WindowParams = field(default_factory=WindowParams)
    is_unknown_anomalous: bool = True
    has_sequences: bool = False
    idle_ticks: int = 2_016

    def build(
        self,
        models: Mapping[str, Artefact],
        entries: Iterable[bytes] = (),
        journal: Sequence[bytes] = (),
    ) -> Shard:
        """A shard, empty or as its template entries and journal say."""
        return Shard(self, models, entries, journal)


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

    State: template entries, and a journal of window and statistics rows; bounded by `TemplateParams` and `WindowParams`.
    """

    def __init__(
        self,
        params: ShardParams,
        models: Mapping[str, Artefact],
        entries: Iterable[bytes] = (),
        journal: Sequence[bytes] = (),
    ) -> None:
        self.params = params
        self._artefacts = models
        self._models: dict[str, Judge | None] = {}  # by service
        self._loaded: dict[str, Judge] = {}  # by version
        self.templates: ShardTemplates = params.templates.build(entries)
        self.windows = params.windows.build()
        self._journal_bytes = 0
        self._snapshot_bytes = 0
        self._idle: dict[str, int] = {}
        for entry in journal:
            self._apply(entry)

    def _apply(self, entry: bytes) -> None:
        version, size = _FRAME.unpack_from(entry)
        if version != JOURNAL_VERSION:
            raise ValueError(
                f"state of version {version}, this program reads {JOURNAL_VERSION}: see CHANGELOG.md for the migration"
            )
        self.windows.apply(entry[_FRAME.size : _FRAME.size + size])
        self.templates.apply(entry[_FRAME.size + size :])
        self._journal_bytes += len(entry)

    # ---- one batch

    def step(self, lines: Lines) -> Step:
        """Judge one batch of lines."""
        for name in lines.services:
            self._meet(name)
        placed = self.templates.step(lines.texts, lines.text, lines.ts, lines.level)
        service = lines.service_of_text[lines.text]
        by_model = [
            (model, rows, model.classes(self.templates)) for model, rows in self._rows_by_model(lines.services, service)
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
        anomalies: list[tuple[int, str, bytes]] = []
        scored = 0
        for model, rows, classes in by_model:
            ends = [at for at, place in enumerate(places) if self._models.get(place.service) is model]
            anomalies += self._judge(model, classes, lines, service, placed.seq, seen, rows, places, ends)
            scored += len(rows)
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
                ids[placed.seq],
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

    def _meet(self, service: str) -> None:
        """Note that a service is alive; at its first line give it its model."""
        self._idle[service] = 0
        if service in self._models:
            return
        artefact = self._artefacts.get(service) or self._artefacts.get("default")
        if artefact is None:
            self._models[service] = None
            return
        if artefact.version not in self._loaded:
            self._loaded[artefact.version] = Judge(artefact, self.params.templates)
        self._models[service] = self._loaded[artefact.version]

    def _rows_by_model(self, services: list[str], service: I32) -> Iterable[tuple[Judge, npt.NDArray[np.int64]]]:
        models = [self._models[name] for name in services]
        distinct = list({id(model): model for model in models if model is not None}.values())
        for model in distinct:
            uses = np.array([candidate is model for candidate in models])
            yield model, np.flatnonzero(uses[service])

    def _judge(
        self,
        model: Judge,
        classes: I32,
        lines: Lines,
        service: I32,
        seq: I32,
        seen: WindowStep,
        rows: npt.NDArray[np.int64],
        places: Sequence[Place],
        ends: Sequence[int],
    ) -> list[tuple[int, str, bytes]]:
        """The anomalies among the lines, and the ended sessions, of one model, as (line, service, JSON)."""
        context = classes[seen.windows[rows]]  # int32[B, h]
        following = classes[seq[rows]]  # int32[B]
        stopped = classes[seen.ended.windows[ends]]  # int32[E, h]
        probability, rank, end_probability = model.score(context, following, stopped)
        rule = model.artefact.rule
        is_known, is_late = following != UNKNOWN, seen.is_late[rows]
        # A service's own sequence has no beginning: until its window is full, nothing can be said of what should come next.
        is_cold = (lines.session[rows] < 0) & (seen.windows[rows, 0] < 0)
        is_flagged = is_known & ~is_late & ~is_cold & rule.is_anomalous(probability, rank)
        if self.params.is_unknown_anomalous:
            is_flagged |= ~is_known & (self.templates.ids[seq[rows]] != OVERFLOW_ID)
        flagged = np.flatnonzero(is_flagged)
        flagged_ends = np.flatnonzero(rule.is_anomalous_end(end_probability) & (stopped[:, -1] != UNKNOWN))
        expected = model.expected(np.concatenate((context[flagged], stopped[flagged_ends])))
        found = []
        for at, likely in zip(flagged.tolist(), expected, strict=False):
            line = int(rows[at])
            place = self._place(lines, service, seq, line)
            finding = Finding(
                probability=float(probability[at]) if is_known[at] else 0.0,
                rank=int(rank[at]),
                is_known=bool(is_known[at]),
                is_late=bool(is_late[at]),
            )
            found.append((line, place.service, self._render(model, place, finding, seen.windows[line], likely)))
        for at, likely in zip(flagged_ends.tolist(), expected[len(flagged) :], strict=True):
            end = ends[at]
            finding = Finding(float(end_probability[at]), 0, is_known=True, is_late=False, is_end=True)
            blob = self._render(model, places[end], finding, seen.ended.windows[end], likely)
            found.append((int(seen.ended.line[end]), places[end].service, blob))
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

    def _render(self, model: Judge, place: Place, finding: Finding, window: I32, expected: Sequence[Expected]) -> bytes:
        templates = self.templates
        tokens = templates.tokens(place.seq)
        return render(
            cluster=self.params.cluster,
            place=place,
            finding=finding,
            template_id=int(templates.ids[place.seq]),
            template=templates.template(place.seq),
            slug=slug(tokens),
            parameters=[found.to_dict() for found in parameters(tokens, place.message, self.params.templates.masking)],
            expected=expected,
            context=[templates.shown(at) for at in window.tolist() if at >= 0],
            model_version=model.version,
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
            }
        )

    # ---- state

    def _writes(self, entries: list[tuple[str, bytes]], dropped: list[str]) -> StateWrites:
        is_snapshot = self._journal_bytes > max(_MIN_SNAPSHOT_BYTES, 2 * self._snapshot_bytes)
        rows, statistics = self.windows.touched(), self.templates.touched()
        if is_snapshot:
            rows, statistics = self.windows.to_bytes(), self.templates.to_bytes()
        journal = b"".join((_FRAME.pack(JOURNAL_VERSION, len(rows)), rows, statistics))
        if is_snapshot:
            self._snapshot_bytes, self._journal_bytes = len(journal), 0
        else:
            self._journal_bytes += len(journal)
        return StateWrites(entries, dropped, journal, is_snapshot)

    def tick(self) -> StateWrites:
        """Free what no verdict can see any more: sessions beyond twice the gap, services idle for `idle_ticks` ticks."""
        self.windows.expire()
        dropped: list[str] = []
        for service in [name for name, ticks in self._idle.items() if ticks >= self.params.idle_ticks]:
            dropped += self.templates.drop(service)
            self.windows.drop(service)
            del self._idle[service]
            self._models.pop(service, None)
        for service in self._idle:
            self._idle[service] += 1
        self._journal_bytes = 1 << 62  # a snapshot leaves out what was freed
        return self._writes([], dropped)


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
