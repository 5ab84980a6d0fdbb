"""What a model would tell of buffered lines: the same windows, detectors, fusion and incidents as in the job, without the lines' texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.artefact import Artefact
from models.deeplog import PADDING, UNKNOWN
from models.detectors.contract import Seen
from models.fusion import SUSPECT, FusionParams
from models.incidents import Suspects, peaks
from models.judge import Judge
from models.learning.buffered import Buffer, BufferedLines, BufferedTemplates
from models.reference import TemplateReference
from models.templates import TemplateParams
from models.training_set import shown
from models.windows import WindowParams

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True)
class JobParams:
    """How the job looks at lines; a trial must do the same.

    Attributes:
        templates: how templates are mined.
        windows: length and gap.
        fusion: who votes, the budget.
        is_unknown_anomalous: whether a template that the model lacks may be an anomaly.
    """

    templates: TemplateParams
    windows: WindowParams
    fusion: FusionParams
    is_unknown_anomalous: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """What a model told of some lines.

    Attributes:
        incidents: how many; those of one kind within an hour are one, as for the budget.
        lines: it looked at.
        days: of event time these span.
    """

    incidents: int
    lines: int
    days: float

    @property
    def per_day(self) -> float:
        """Incidents a day."""
        return self.incidents / max(self.days, 1e-9)


def told(
    artefact: Artefact, lines: BufferedLines, texts: Mapping[int, str], is_asked: Bools, params: JobParams
) -> Told:
    """What a model tells of some of these lines, and of sessions that end among them; the others only lead up to them.

    A voice that the model lacks has no vote, as in the job.

    Args:
        artefact: the model.
        lines: in source order; none withheld.
        texts: of their templates.
        is_asked: of which lines; `bool[N]`.
        params: as the job has them.
    """
    buffer = Buffer(lines, texts, params.templates.masking)
    judge = Judge(artefact, params.templates, params.fusion)
    classes = _classes(artefact, buffer.templates, params.templates)
    since_ms = int(lines.ts[is_asked].min()) if is_asked.any() else 0
    low = 0
    strengths: list[Suspects] = []
    for seen in shown(buffer.parts, classes, judge.wait_ms, buffer.services, params.windows):
        strengths.append(_suspects(judge, seen, is_asked[low : low + len(seen)], since_ms, params))
        low += len(seen)
    reached = peaks(_joined(strengths), params.fusion.incidents) if strengths else np.zeros(0)
    asked_ms = lines.ts[is_asked]
    span = float(asked_ms.max() - asked_ms.min()) if len(asked_ms) else 0.0
    return Told(int((reached >= judge.fusion.threshold).sum()), int(is_asked.sum()), max(span, 1.0) / _DAY_MS)


def _classes(artefact: Artefact, templates: BufferedTemplates, params: TemplateParams) -> Int32:
    """The class of each template by seq, and last the padding, as `models.judge.Judge.classes` finds them."""
    found = artefact.classes(templates.ids)
    if (found == UNKNOWN).any():
        reference = TemplateReference(artefact.templates, params)
        kin = [reference.match(templates.tokens[seq]) or 0 for seq in np.flatnonzero(found == UNKNOWN).tolist()]
        found[found == UNKNOWN] = artefact.classes(np.array(kin, np.uint32))
    return np.append(found, np.int32(PADDING))


def _suspects(judge: Judge, seen: Seen, is_asked: Bools, since_ms: int, params: JobParams) -> Suspects:
    """The lines of a batch that carry weight, and the ends after `since_ms`."""
    judged = judge.step(seen)
    line_weight, end_weight = judged.line_weight, judged.end_weight
    if not params.is_unknown_anomalous:
        line_weight[:, seen.code == UNKNOWN] = 0
    ends = seen.ends
    line = np.flatnonzero(is_asked & (line_weight.max(axis=0) >= SUSPECT))
    end = np.flatnonzero((ends.ts >= since_ms) & (end_weight.max(axis=0, initial=0) >= SUSPECT))
    about = Suspects(
        key=np.concatenate((seen.key[line], ends.key[end])),
        service=np.full(len(line) + len(end), seen.service[0], np.uint64),
        piece=np.concatenate((seen.seq[line], -1 - ends.windows[end, -1])).astype(np.int32),
        now=np.concatenate((seen.now[line], ends.ts[end])),
        has_session=np.concatenate((seen.has_session[line], np.ones(len(end), np.bool_))),
        weight=np.zeros(len(line) + len(end), np.float32),
    )
    order = np.argsort(about.now, kind="stable")
    weight = np.concatenate((line_weight[:, line], end_weight[:, end]), axis=1)
    return judge.fusion.suspects(weight[:, order], about.take(order))[0]


def _joined(parts: list[Suspects]) -> Suspects:
    columns = ("key", "service", "piece", "now", "has_session", "weight")
    return Suspects(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
