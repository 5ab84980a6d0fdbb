"""Who logged in, and who was refused what: a Redis stream, and the log.

What was done is on the control topic, with who, when and why; this is about what never gets that far.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from console.safe_text import shortened
from models.visible import visible

if TYPE_CHECKING:
    from redis import Redis

_KEPT: Final = 100_000
_log = logging.getLogger("driftwood.console.audit")


class Audit:
    """Writes `<prefix>:console:audit`; without Redis the log is all there is.

    Args:
        client: of Redis, or None.
        prefix: first part of the key.
        now_ms: milliseconds since the epoch.
    """

    def __init__(self, client: Redis | None, prefix: str, now_ms: Callable[[], int]) -> None:
        self._client = client
        self.key = f"{prefix}:console:audit"
        self._now_ms = now_ms
        self._lock = threading.Lock()

    def write(self, event: str, who: str, peer: str, detail: str = "") -> None:
        """Note an event: `login`, `login_failed`, `logout`, `refused` or `command`."""
        entry: dict[Any, Any] = {
            "at_ms": str(self._now_ms()),
            "event": event,
            "who": shortened(visible(who), 200),
            "peer": visible(peer),
            "detail": shortened(visible(detail), 1_000),
        }
        _log.info("%s who=%s peer=%s %s", event, entry["who"], entry["peer"], entry["detail"])
        if self._client is None:
            return
        from redis import RedisError

        try:
            with self._lock:
                self._client.xadd(self.key, entry, maxlen=_KEPT, approximate=True)
        except RedisError as error:
            # Redis is away: the event stands in the log, and nobody is kept from working.
            _log.warning("the audit stream %s cannot be written (%s); the event is in this log", self.key, error)
