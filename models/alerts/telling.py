"""When a person is told of an incident: once when it opens, again when it is worse than was told, and when it is over.

Every anomaly counts in its incident, and every incident is on the topic; a cooldown holds back messages only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.alerts.incident import Incident, Told
from models.alerts.severity_corpus import SEVERITIES
from models.errors import SettingsError

#: Kinds of message after which people take the incident for over.
OVER: Final = ("resolved", "merged")
#: So many times the anomalies that were told are an escalation.
_GROWTH: Final = 10


@dataclass(frozen=True)
class TellingParams:
    """How long people are left in peace.

    Units: ms of processing time.

    Attributes:
        gather_ms: an incident is told so long after it opened, so that what belongs to it is in the first message.
        calm_ms: a growing count is told again after so long at the earliest; a greater severity at once.
        cooldown_ms: an incident that comes back after it was told as over is told again after so long at the earliest, unless it is worse.
        remind_ms: an incident that stays open is told again.
    """

    gather_ms: int = 10_000
    calm_ms: int = 300_000
    cooldown_ms: int = 3_600_000
    remind_ms: int = 86_400_000

    def __post_init__(self) -> None:
        if not 0 <= self.gather_ms <= self.calm_ms <= self.cooldown_ms <= self.remind_ms:
            raise SettingsError(
                f"Alerts: gather ({self.gather_ms} ms), calm ({self.calm_ms} ms), cooldown ({self.cooldown_ms} ms) and reminder "
                f"({self.remind_ms} ms) must not be negative, and each at least as long as the one before it."
            )


def tell(incident: Incident, now_ms: int, params: TellingParams, *, is_arrival: bool) -> bool:
    """Make the incident's next message, if one is due; gives True if so.

    Args:
        incident: what may be told; its `told` is replaced.
        now_ms: processing time.
        params: the times.
        is_arrival: an anomaly has just come: only then growth is looked at, so that a storm that is over is not told as growing.
    """
    if incident.mode != "live":
        return False  # people hear nothing of what a service in shadow mode finds
    found = _due_open(incident, now_ms, params, is_arrival) if incident.is_open else _due_over(incident)
    if found is None:
        return False
    kind, why = found
    incident.told = Told(incident.told.number + 1, kind, why, now_ms, incident.rank, incident.count)
    if kind == "escalated":
        incident.state = "escalated"
    return True


def _due_open(incident: Incident, now_ms: int, params: TellingParams, is_arrival: bool) -> tuple[str, str] | None:
    told, since = incident.told, now_ms - incident.told.at_ms
    if told.number == 0:
        is_gathered = incident.count > 0 and now_ms - incident.opened_at >= params.gather_ms
        return ("opened", "It is new.") if is_gathered else None
    if incident.rank > told.rank:
        return "escalated", f"It is {SEVERITIES[incident.rank]} now; it was {SEVERITIES[told.rank]}."
    if told.kind in OVER:
        return ("reopened", "It came back after it was over.") if since >= params.cooldown_ms else None
    if is_arrival and incident.count >= _GROWTH * max(1, told.count) and since >= params.calm_ms:
        return "escalated", f"It has {incident.count:,} anomalies now; it had {told.count:,}."
    if since >= params.remind_ms:
        return "reminder", "It is still open."
    return None


def _due_over(incident: Incident) -> tuple[str, str] | None:
    if incident.told.number == 0 or incident.told.kind in OVER:
        return None
    if incident.merged_into is not None:
        return "merged", f"It belongs to incident {incident.merged_into}."
    if incident.state == "withdrawn":
        return "resolved", "A second opinion found all of it ordinary."
    return "resolved", "Nothing more came."
