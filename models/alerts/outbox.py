"""What one route has still to tell: the newest of each incident, as fast as the route may, again where it failed.

```
incident ─ told before? for this route? ─→ waiting, the newest of each ─ tokens ─→ one by one, worst first
                                                                        └ hardly any left ─→ all in one digest
delivered ─→ entries for the ledger        failed ─→ waits longer each time, for as long as it takes
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import xxhash

from models.alerts.messages import labels
from models.alerts.routes import Route
from models.alerts.severity import rank
from models.alerts.telling import OVER
from models.delivery import RetryParams
from models.errors import RecordError

Incident = Mapping[str, Any]

#: Nobody gives up on a page: the waits grow to a minute and stay there.
RETRY: Final = RetryParams(base_s=1.0, cap_s=60.0, max_tries=1 << 60, deadline_s=1e15)
#: Messages over the rate are gathered for so long.
DIGEST_MS: Final = 60_000
#: That an incident is over is told to somebody who was never told of it only if both came while the route was failing, not long ago.
_STALE_MS: Final = 3_600_000
_HOUR_MS: Final = 3_600_000


#: What is read of an incident, and what it must be.
_FIELDS: Final[Mapping[str, type]] = {
    "incident_id": str,
    "revision": int,
    "mode": str,
    "severity": str,
    "requires_immediate_action": bool,
    "services": list,
    "started_ms": int,
    "last_ms": int,
    "opened_at_ms": int,
    "count": int,
    "cause": dict,
    "worst": dict,
    "message": dict,
}
_EXAMPLE: Final[Mapping[str, type]] = {"anomaly_id": str, "ts": int, "service": str, "message": str, "explanation": str}
_MESSAGE: Final[Mapping[str, type]] = {"number": int, "kind": str, "why": str, "at_ms": int}


def read_incident(value: bytes) -> Incident:
    """The incident in one record of the topic.

    Raises: RecordError if it is none.
    """
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RecordError("no_incident", "notify", "not JSON") from error
    parts = [(row, _FIELDS)]
    if isinstance(row, dict):
        parts += [(row.get("cause"), _EXAMPLE), (row.get("worst"), _EXAMPLE), (row.get("message"), _MESSAGE)]
    for part, fields in parts:
        wrong = [
            name for name, kind in fields.items() if not isinstance(part, dict) or not isinstance(part.get(name), kind)
        ]
        if wrong:
            raise RecordError(
                "no_incident", "notify", f"without {', '.join(wrong)} as docs/incident.schema.json has them"
            )
    incident: Incident = row
    return incident


@dataclass(frozen=True, slots=True)
class Entry:
    """What a route was told last of an incident; a row of the ledger.

    Attributes:
        number: of the message.
        is_over: it said that the incident is over.
        labels: under which it was told (Alertmanager).
        at_ms: when.
    """

    number: int
    is_over: bool
    labels: Mapping[str, str]
    at_ms: int

    def to_bytes(self) -> bytes:
        """As a value on the ledger's topic."""
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, value: bytes) -> Entry:
        """The inverse of `to_bytes`."""
        return cls(**orjson.loads(value))


@dataclass(frozen=True, slots=True)
class Notice:
    """What goes out in one piece; its key is the same when it is sent again."""

    incidents: tuple[Incident, ...]

    @property
    def key(self) -> str:
        """A hash of the messages in it."""
        names = sorted(f"{incident['incident_id']} {incident['message']['number']}" for incident in self.incidents)
        return xxhash.xxh3_64_hexdigest("\n".join(names).encode())


@dataclass(slots=True)
class Outbox:
    """The messages of one route.

    Units: all times are ms of processing time.

    State: `told` is the ledger, `waiting` the newest record of each incident that is still to be told.
    """

    route: Route
    told: dict[str, Entry] = field(default_factory=dict)
    waiting: dict[str, Incident] = field(default_factory=dict)
    _since: int = 0  # when the first that waits began to
    _tokens: float = -1.0
    _refilled: int = 0
    _tries: int = 0
    _not_before: int = 0

    def take(self, incident: Incident, now_ms: int) -> None:
        """Look at a record of the topic."""
        name = incident["incident_id"]
        if self._wants(incident, now_ms):
            if not self.waiting:
                self._since = now_ms
            self.waiting[name] = incident
        elif name in self.waiting and incident["revision"] > self.waiting[name]["revision"]:
            del self.waiting[name]

    def _wants(self, incident: Incident, now_ms: int) -> bool:
        name, message = incident["incident_id"], incident["message"]
        before = self.told.get(name)
        if incident["mode"] != "live" or message["number"] <= (before.number if before else 0):
            return False
        is_first = (
            before is None and message["kind"] not in OVER
        )  # whatever it is called: this route has not heard of it
        if not self.route.tells("opened" if is_first else message["kind"]):
            return False
        if message["kind"] in OVER:
            if before is None:
                return name in self.waiting and now_ms - message["at_ms"] <= _STALE_MS
            return not before.is_over
        return self.route.matches(incident)

    def due(self, now_ms: int) -> Notice | None:
        """What may go out now; None if nothing."""
        if not self.waiting or now_ms < self._not_before:
            return None
        self._refill(now_ms)
        if self._tokens >= 2:
            return Notice((min(self.waiting.values(), key=_urgency),))
        if self._tokens >= 1 and now_ms - self._since >= DIGEST_MS:
            return Notice(tuple(sorted(self.waiting.values(), key=_urgency)))
        return None

    def _refill(self, now_ms: int) -> None:
        burst = float(self.route.burst)
        if self._tokens < 0:
            self._tokens, self._refilled = burst, now_ms
        gained = (now_ms - self._refilled) * self.route.per_hour / _HOUR_MS
        self._tokens, self._refilled = min(burst, self._tokens + max(0.0, gained)), max(now_ms, self._refilled)

    def sent(self, notice: Notice, now_ms: int) -> dict[str, Entry]:
        """Note that a notice was delivered, or refused for good; gives the rows to write to the ledger."""
        self._tries, self._not_before = 0, 0
        self._tokens -= 1
        entries = {}
        for incident in notice.incidents:
            name, message = incident["incident_id"], incident["message"]
            entries[name] = Entry(message["number"], message["kind"] in OVER, labels(incident), now_ms)
            if self.waiting.get(name) is incident:
                del self.waiting[name]
        self.told.update(entries)
        self._since = now_ms
        return entries

    def failed(self, now_ms: int, jitter: float, retry_after_s: float | None = None) -> float:
        """Note that a notice could not be delivered; gives the seconds to wait, longer each time."""
        self._tries += 1
        wait_s = RETRY.wait_s(self._tries, jitter, 0.0, retry_after_s) or RETRY.cap_s
        self._not_before = now_ms + int(wait_s * 1000)
        return wait_s


def _urgency(incident: Incident) -> tuple[bool, int, int, str]:
    message = incident["message"]
    return message["kind"] in OVER, -rank(incident["severity"]), message["at_ms"], incident["incident_id"]
