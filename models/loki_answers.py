"""What each answer of Loki asks for: stored, try again, find out which entries were refused, or stop."""

from __future__ import annotations

import dataclasses
import enum
import re

from models.delivery import dead_letter, event_time_ms, is_passing
from models.loki import Entry

_CUTOFF = re.compile(r"oldest acceptable timestamp is: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))")


class Action(enum.Enum):
    """What an answer of Loki asks for."""

    STORED = "stored"
    RETRY = "retry"
    HALVE = "halve"  # the request is too large
    EXAMINE = "examine"  # some of it was refused, the rest may be stored: find out which
    REFUSED = "refused"  # all of it was refused and will be again
    FAIL = "fail"  # a setting is wrong, or we are: stop


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """An action, why, and for entries refused for their time the oldest time that Loki takes."""

    action: Action
    reason: str = ""
    detail: str = ""
    is_about_time: bool = False
    oldest_ns: int | None = None


#: Texts of Loki 3.7.8 (pkg/validation/validate.go): a refusal that every entry would meet, and the setting behind it.
_SETTING_FAULTS = {
    "this feature is disallowed": "Loki takes no structured metadata (schema below v13): add ?metadata=false to the address.",
    "missing required labels": "Loki wants labels that are not sent: add ?label.NAME=VALUE to the address.",
    "label names; limit": "Loki allows fewer labels: take some ?label.… from the address.",
}
#: Likewise: refusals for the entry's time, and those of the line, with the reason of the dead letter.
_TIME_FAULTS = {"timestamp too old": "too_old", "too far behind": "too_far_behind", "timestamp too new": "too_new"}
_LINE_FAULTS = {"max entry size": "line_too_long", "structured metadata too": "metadata_too_large"}


def decide(status: int, body: str) -> Decision:
    """What to do after an answer; status 0 is no answer at all.

    Source: reference/ecosystem.md, section 3.1.

    >>> decide(204, "").action.value, decide(260, "").action.value, decide(503, "").action.value
    ('stored', 'refused', 'retry')
    >>> decide(401, "no org id").detail
    'Loki refused the credentials (401: no org id). Check user and password, token, and ?tenant= of the Loki sink.'
    """
    said = " ".join(body.split())[:500]
    if status in (200, 204):
        return Decision(Action.STORED)
    if is_passing(status):
        return Decision(Action.RETRY, "unavailable", f"{status}: {said}")
    if status == 413:
        return Decision(Action.HALVE, "too_large", said)
    if status == 260:
        return Decision(Action.REFUSED, "ingestion_blocked", said)
    if status in (401, 403):
        detail = f"Loki refused the credentials ({status}: {said}). Check user and password, token, and ?tenant= of the Loki sink."
        return Decision(Action.FAIL, "credentials", detail)
    if status == 422:
        return Decision(Action.FAIL, "no_streams", f"Loki saw no stream in a request (422: {said}): a bug of the sink.")
    if status != 400:
        detail = f"Loki answered {status} ({said}). Check the address of the Loki sink: host, port and path prefix."
        return Decision(Action.FAIL, "unexpected_answer", detail)
    for text, advice in _SETTING_FAULTS.items():
        if text in body:
            return Decision(Action.FAIL, "setting", f"{advice} Loki said: {said}")
    for text, reason in _TIME_FAULTS.items():
        if text in body:
            cutoffs = [event_time_ms(found) for found in _CUTOFF.findall(body)]
            oldest = min((ms for ms in cutoffs if ms is not None), default=None)
            return Decision(Action.EXAMINE, reason, said, True, None if oldest is None else oldest * 1_000_000)
    for text, reason in _LINE_FAULTS.items():
        if text in body:
            return Decision(Action.EXAMINE, reason, said)
    return Decision(Action.EXAMINE, "refused", said)


def resolve(batch: list[Entry], decision: Decision) -> tuple[list[list[Entry]], list[bytes]]:
    """What to send next after a refusal, and dead letters for what no request can bring in.

    A part that was stored already is sent again with the rest: Loki keeps equal entries of a stream once. Only entries
    surely refused get another time, so that none stands there twice: the cutoff in an answer is rounded down to seconds,
    and what lies within that second is found by halving.
    """
    if decision.action is Action.REFUSED:
        return [], [_letter(entry, decision) for entry in batch]
    if decision.is_about_time and decision.oldest_ns is not None:
        late = [e for e in batch if e.time_ns < decision.oldest_ns]
        if late and len(batch) > 1:
            rest = [e for e in batch if e.time_ns >= decision.oldest_ns]
            moved = sorted((e.restamped() for e in late if e.record_ns is not None), key=lambda e: e.time_ns)
            letters = [_letter(e, decision) for e in late if e.record_ns is None]
            return [part for part in (rest, moved) if part], letters
    if len(batch) > 1:
        middle = len(batch) // 2
        return [batch[:middle], batch[middle:]], []
    (entry,) = batch
    if decision.is_about_time and entry.record_ns is not None:
        return [[entry.restamped()]], []
    return [], [_letter(entry, decision)]


def _letter(entry: Entry, decision: Decision) -> bytes:
    return dead_letter(decision.reason, "loki", decision.detail, entry.source, entry.raw)
