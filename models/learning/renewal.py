"""One renewal of a service's model: from its buffer to a candidate and the gate's word on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from models.artefact import Artefact
from models.detectors.deeplog import DeepLogParams
from models.learning.buffered import LEARNABLE, WITHHELD, Buffer, BufferedLines, BufferedTemplates, textless
from models.learning.criteria import Decision
from models.learning.feedback_log import FeedbackLog
from models.learning.gate import GateParams, held_out, pass_gate
from models.learning.marked import Anomaly, TextFinder, confirmed, is_odd, oddities
from models.learning.telling import JobParams
from models.templates import TemplateParams
from models.train import TrainParams, learn
from models.training_set import lesson
from models.trimming import suspicious, told

Report = Callable[[str, float, float | None], None]  # (what is being done, share done, loss or None)

_TRIAL: Final = 0.4  # of the time of a renewal …
_GATE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a service's model may learn, and what people confirmed.

    Attributes:
        lines: without suspects and without what people called anomalous.
        texts: of the templates.
        known: anomalies that people confirmed.
        withheld_ratio: share of the buffer's lines that suspects cost, with their sessions.
        notes: what was left out, in words.
    """

    lines: BufferedLines
    texts: Mapping[int, str]
    known: Sequence[Anomaly]
    withheld_ratio: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """The outcome.

    Attributes:
        candidate: the model.
        decision: the gate's.
        curve: DeepLog's held-out loss by epoch.
        notes: what was left out, in words.
    """

    candidate: Artefact
    decision: Decision
    curve: tuple[float, ...]
    notes: tuple[str, ...]


def prepare(lines: BufferedLines, texts: Mapping[int, str], log: FeedbackLog, params: TemplateParams) -> Prepared:
    """The lines that may be learned.

    Args:
        lines: all that the buffer has, in source order.
        texts: template id → text.
        log: what people said.
        params: how templates are mined.
    """
    service = lines.service
    lines = lines.joined(log.joined(service))
    finder = TextFinder(BufferedTemplates(service, texts, params.masking), params)
    is_out = textless(lines, texts)
    odd, common = is_odd(lines, oddities(log, service, finder))
    kept = lines.without(is_out | odd)
    notes = []
    is_withheld = lines.template == WITHHELD
    withheld = int(is_withheld.sum())
    withheld_ratio = 1 - len(lines.without(is_withheld)) / max(len(lines), 1)
    if withheld:
        notes.append(f"{withheld:,} lines were withheld as suspects")
    if int(is_out.sum()) > withheld:
        notes.append(f"{int(is_out.sum()) - withheld:,} lines are of templates whose text is not in the buffer")
    if odd.any():
        notes.append(f"{int(odd.sum()):,} lines are like those that people called anomalous")
    if len(lines) > len(kept):
        notes.append(f"with their sessions {len(lines) - len(kept):,} of {len(lines):,} lines were left out")
    if common:
        notes.append(
            f"{len(common)} kinds of line that people called anomalous are too common to be left out: {', '.join(f'{one.template:08x}' for one in common[:5])}"
        )
    return Prepared(kept, texts, confirmed(log, service), withheld_ratio, tuple(notes))


def learnable(params: TrainParams) -> tuple[TrainParams, tuple[str, ...]]:
    """The parameters with those detectors that can learn from a buffer, and the names of the others."""
    kept = tuple(name for name in params.detectors if name in LEARNABLE)
    return replace(params, detectors=kept), tuple(name for name in params.detectors if name not in LEARNABLE)


def renew(
    prepared: Prepared,
    present: Artefact | None,
    train: TrainParams,
    job: JobParams,
    gate: GateParams,
    origin: Mapping[str, Any],
    report: Report = lambda what, done, loss: None,
) -> Renewal:
    """Train a candidate, and let it through the gate or not.

    The trial learns the older lines only, so that the newest show what this training makes of lines it has not seen. The candidate learns all of them:
    equal lines give an equal model, and it is the one that `models.train` makes of them. Suspicious sessions are in neither, nor asked of by the gate.

    Args:
        prepared: what may be learned.
        present: the model that judges the service now; None if there is none.
        train: how a model is made.
        job: how the job looks at lines.
        gate: what a candidate must hold.
        origin: what the data are, for the manifest.
        report: called on the way.

    Raises: DataSetError if there is too little to learn from.
    """
    train, absent = learnable(train)
    notes = prepared.notes
    if absent:
        notes += (f"{', '.join(absent)} cannot learn from the buffer, which has no messages",)
    lines = prepared.lines
    buffer = Buffer(lines, prepared.texts, train.templates.masking)
    whole = lesson(buffer, [0], train.windows, train.held_out_ratio)
    doubted, looked_at = suspicious(whole, train.suspicious_ratio, train.seed)
    lines = lines.take(np.flatnonzero(~np.isin(lines.key, doubted)))  # the gate does not ask about them either
    left_out = {"sessions": len(doubted), "of": looked_at}
    notes += tuple(filter(None, [told(left_out)]))
    train = replace(train, suspicious_ratio=0.0)
    curve: list[float] = []

    def part(data: BufferedLines, name: str, low: float, high: float) -> Artefact:
        def tell(service: str, what: str, done: float, loss: float | None) -> None:
            if loss is not None and what.startswith(DeepLogParams.name) and name == "candidate":
                curve.append(round(loss, 5))
            report(f"{name}, {what}", low + (high - low) * done, loss)

        buffer = Buffer(data, prepared.texts, train.templates.masking)
        about = {**origin, "data_sha256": data.sha256(), "suspicious": left_out}
        return learn(lines.service, [0], buffer, train, about, tell)

    trial = part(lines.take(np.flatnonzero(~held_out(lines, gate))), "trial", 0.0, _TRIAL)
    candidate = part(lines, "candidate", _TRIAL, 1 - _GATE)
    report("gate", 1 - _GATE, None)
    ratio = prepared.withheld_ratio
    decision = pass_gate(trial, candidate, present, lines, prepared.texts, prepared.known, ratio, job, gate)
    report("gate", 1.0, None)
    return Renewal(candidate, decision, tuple(curve), notes)
