"""One route's own loop: incidents in, notices out. Routes do not wait for each other, and each keeps its own place in the topic.

```
poll ─→ outbox ─→ send ─→ ledger ─→ … ─→ nothing waits: commit
```

A message is told, then written down, then its place is committed: what is lost by a crash in between is told again, and nothing is left out. Between
the receiver's answer and the ledger lie some milliseconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.errors import KafkaError
from loguru import logger

from flink_jobs.notifier.ledger import Ledger
from flink_jobs.notifier.senders import Outcome, Result, Sender
from models.alerts.outbox import Entry, Notice, Outbox, read_incident
from models.alerts.routes import Route
from models.errors import RecordError, SinkError

_POLL_MS = 500
#: After a crash the group waits so long for the program that is gone, before it lets the next one tell anything.
_SESSION_MS = 10_000


class _Assigned(ConsumerRebalanceListener):
    """Says when partitions came: another notifier may have told something of them."""

    def __init__(self) -> None:
        self.is_new = True

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing: what was told is in the ledger."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Let the ledger be read again."""
        self.is_new = True


class RouteWorker:
    """Reads incidents for one route and tells them.

    Args:
        route: the route.
        sender: what delivers.
        options: of a Kafka client, with the bootstrap servers.
        topic: of the incidents.
        group: consumer group; the route's name is put behind it.
        ledger: the compacted topic of what was told.
        clock: ms since the epoch.
    """

    def __init__(
        self,
        route: Route,
        sender: Sender,
        options: Mapping[str, Any],
        *,
        topic: str,
        group: str,
        ledger: str,
        clock: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._route, self._sender, self._clock = route, sender, clock
        self._ledger = Ledger(options, ledger, route.name)
        self._assigned = _Assigned()
        self._consumer = KafkaConsumer(
            group_id=f"{group}-{route.name}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=_SESSION_MS,
            heartbeat_interval_ms=_SESSION_MS // 3,
            **options,
        )
        self._consumer.subscribe([topic], listener=self._assigned)
        self._outbox = Outbox(route)
        self._jitter = random.Random()
        self._is_behind = False  # something was read that is not committed
        self._unwritten: dict[str, Entry] = {}  # told, and not yet in the ledger
        # Something went out, and more may be due: one at a time, so that the group hears from us in between.
        self._has_more = False

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Work until told to stop.

        Raises:
            SinkError: the ledger cannot be read.
        """
        try:
            while not is_stopped():
                self.turn()
        finally:
            self._consumer.close()
            self._ledger.close()

    def turn(self) -> None:
        """Read what has come, tell what is due, and commit when nothing waits."""
        if self._unwritten and not self._write():
            return  # a crash would now tell again what is not in the ledger: so nothing more is told
        batches = self._consumer.poll(timeout_ms=0 if self._has_more else _POLL_MS)
        if self._assigned.is_new:
            self._assigned.is_new = False
            self._outbox = Outbox(self._route, self._ledger.read(self._clock()))
        for records in batches.values():
            for record in records:
                self._is_behind = True
                self._take(record.value)
        notice = self._outbox.due(self._clock())
        self._has_more = notice is not None
        if notice is not None:
            self._tell(notice)
        if self._is_behind and not self._outbox.waiting and not self._unwritten:
            self._commit()

    def _take(self, value: bytes | None) -> None:
        try:
            if value is not None:
                self._outbox.take(read_incident(value), self._clock())
        except RecordError as error:
            logger.error(
                "route {}: a record of the topic is no incident and is left out: {}", self._route.name, error.detail
            )

    def _tell(self, notice: Notice) -> None:
        result = self._sender.send(notice, self._outbox.told)
        if result.outcome is Outcome.FAILED:
            wait_s = self._outbox.failed(self._clock(), self._jitter.random(), result.retry_after_s)
            logger.warning("route {}: not delivered, {}; next try in {:.0f} s", self._route.name, result.detail, wait_s)
            return
        self._unwritten = self._outbox.sent(notice, self._clock())
        self._log(notice, result)
        self._write()

    def _write(self) -> bool:
        """True when what was told is in the ledger."""
        try:
            self._ledger.write(self._unwritten)
        except SinkError as error:
            logger.warning("route {}: {}", self._route.name, error)
            return False
        self._unwritten = {}
        return True

    def _commit(self) -> None:
        try:
            self._consumer.commit()
            self._is_behind = False
        except KafkaError as error:  # tried again at the next turn; what is read twice is told once
            logger.warning("route {}: its place is not committed yet ({})", self._route.name, type(error).__name__)

    def _log(self, notice: Notice, result: Result) -> None:
        names = ", ".join(f"{i['incident_id']} {i['message']['kind']}" for i in notice.incidents[:5])
        if result.outcome is Outcome.REFUSED:
            logger.error(
                "route {}: the receiver refuses this message for good and it is left out ({}): {}; the incident is on the topic",
                self._route.name,
                result.detail,
                names,
            )
        else:
            logger.info(
                "route {}: told {} incidents ({}) {}", self._route.name, len(notice.incidents), names, result.detail
            )
