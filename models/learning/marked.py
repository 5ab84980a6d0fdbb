"""What people said of lines, applied to the buffer: what must not be learned, and what a new model must still tell.

A pattern of feedback names a template, and for the order of lines the template before it. Patterns of numbers, values, ends and rates name a template that
is normal by itself: by these nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.learning.buffered import BufferedLines, BufferedTemplates
from models.learning.feedback_log import FeedbackLog
from models.masking import mask, tokenise
from models.reference import TemplateReference
from models.templates import TemplateParams

Bools = npt.NDArray[np.bool_]

_TELLING: Final = frozenset({"order", "text"})  # families by which a template, or its place, is odd by itself
_COMMON: Final = 0.01  # of the lines; what is more common than this is normal, whatever was said of one of them
_SCENES: Final = 3
_LEAD: Final = 20  # lines before the odd ones
_STEP_MS: Final = 1


@dataclass(frozen=True, slots=True)
class Oddity:
    """A line that a person called anomalous: its template, and that of the line before it; None for any."""

    template: int
    before: int | None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An anomaly that a person confirmed, by what can be enacted again.

    Attributes:
        anomaly_id: of it.
        oddities: its odd lines, the oddest first; empty if it was odd by numbers, values or an end alone.
    """

    anomaly_id: str
    oddities: tuple[Oddity, ...]


class TextFinder:
    """The template of a line as people see it.

    >>> templates = BufferedTemplates("cart", {7: "took <amount> for <num> items"}, TemplateParams().masking)
    >>> TextFinder(templates, TemplateParams()).find("took 35ms for 2 items")
    7
    """

    def __init__(self, templates: BufferedTemplates, params: TemplateParams) -> None:
        self._masking = params.masking
        self._reference = TemplateReference(templates.export(templates.service), params)

    def find(self, message: str) -> int | None:
        """The id of the message's template; None if there is none."""
        (tokens,) = tokenise(mask([message], self._masking).to_list(), self._masking)
        return self._reference.match(tokens)


def confirmed(log: FeedbackLog, service: str) -> list[Anomaly]:
    """The anomalies that people called rightly told, the oldest first."""
    found = []
    for name, feedback in log.anomalies(service).items():
        if feedback.label == "anomalous":
            levels = sorted(feedback.patterns, key=lambda one: -one.level)
            odd = [oddity for one in levels if (oddity := oddity_of(one.pattern)) is not None]
            found.append(Anomaly(name, tuple(dict.fromkeys(odd))))
    return found


def oddities(log: FeedbackLog, service: str, finder: TextFinder) -> list[Oddity]:
    """The lines that people called anomalous or missed: they may not be learned."""
    found = [oddity_of(name) for name, held in log.patterns(service).items() if held.feedback.label == "anomalous"]
    for feedback in log.missed(service):
        template = finder.find(feedback.message)
        before = finder.find(feedback.before) if feedback.before else None
        if template is not None and not (feedback.before and before is None):
            found.append(Oddity(template, before))
    return list(dict.fromkeys(one for one in found if one is not None))


def oddity_of(pattern: str) -> Oddity | None:
    """The line that a pattern is about; None where its template is normal by itself.

    >>> oddity_of("line:order:0000000a:0000000b"), oddity_of("end:number:0000000a:-")
    (Oddity(template=10, before=11), None)
    """
    kind, family, template, before = pattern.split(":")
    if kind != "line" or family not in _TELLING:
        return None
    return Oddity(int(template, 16), None if before == "-" else int(before, 16))


def is_odd(lines: BufferedLines, odd: Sequence[Oddity]) -> tuple[Bools, list[Oddity]]:
    """Which lines are such, `bool[N]`; and those oddities that are too common to be left out."""
    found = np.zeros(len(lines), np.bool_)
    common = []
    before = lines.before() if odd else lines.template
    for one in odd:
        such = lines.template == one.template
        if one.before is not None:
            such &= before == one.before
        if such.sum() > _COMMON * len(lines):
            common.append(one)
        else:
            found |= such
    return found, common


def scenes(lines: BufferedLines, anomaly: Anomaly) -> list[tuple[BufferedLines, Bools]]:
    """The anomaly enacted again: normal lines up to where it came, then its odd lines; and which lines those are.

    Up to three, each on other lines of the buffer, the newest last. A line without session is enacted in the service's own sequence.
    """
    first = anomaly.oddities[0]
    places = np.arange(len(lines))
    if first.before is not None and (lines.template == first.before).any():
        places = np.flatnonzero(lines.template == first.before)
    _, newest = np.unique(lines.key[places][::-1], return_index=True)  # one of each session
    places = np.sort(places[len(places) - 1 - newest])[-_SCENES:]
    if not lines.has_session[places].all():
        places = places[-1:]
    return [_scene(lines, int(place), anomaly.oddities) for place in places.tolist()]


def _scene(lines: BufferedLines, place: int, odd: Sequence[Oddity]) -> tuple[BufferedLines, Bools]:
    context = lines.take(np.flatnonzero(lines.key[: place + 1] == lines.key[place])[-_LEAD:])
    count = len(odd)
    is_new = np.append(np.zeros(len(context), np.bool_), np.ones(count, np.bool_))
    scene = BufferedLines(
        lines.service,
        np.append(context.template, np.array([one.template for one in odd], np.uint32)),
        np.full(len(is_new), context.key[-1], np.uint64),
        np.full(len(is_new), context.has_session[-1], np.bool_),
        np.append(context.ts, context.ts[-1] + _STEP_MS * np.arange(1, count + 1)),
    )
    return scene, is_new


def named(lines: BufferedLines, texts: Mapping[int, str]) -> dict[int, str]:
    """The texts with those of templates that have none: a scene may hold a template that the buffer never had."""
    return {number: texts.get(number, f"<unknown> {number:08x}") for number in np.unique(lines.template).tolist()}
