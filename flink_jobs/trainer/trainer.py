"""The trainer's rounds: look at each service's buffer, train when it is due, let the candidate through the gate, publish it.

```
lock ─ announce what was left unannounced ─ due? ─ read ─ train ─ gate ─┬─ refused: reported, not stored
                                                                       └─ intent in Redis → store → control topic → record → prune
```

A kill at any point leaves one of three things: nothing, an intent without a version (forgotten), a version without announcement (announced by the next
look at the service, because the intent names it).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson
import redis
from loguru import logger

from flink_jobs.trainer.control_topic import ControlTopic, say
from flink_jobs.trainer.records import Lease, LostLockError, Records
from models.artefact import Artefact
from models.control import EVERY, SetModel, SetShares
from models.errors import ArtefactError, DataSetError
from models.fusion import FusionParams
from models.learning.buffered import BufferedLines, gather
from models.learning.criteria import Decision
from models.learning.due import DueParams, Last, again, enough
from models.learning.feedback_log import FeedbackLog
from models.learning.gate import GateParams
from models.learning.renewal import Renewal, prepare, renew
from models.learning.telling import JobParams
from models.store import Store, Version
from models.train import TrainParams
from models.training_buffer import RedisParams
from udfs.clients.training_buffer import read_sequences, read_services, read_templates

BY: Final = "trainer"
_TOLD_S: Final = 1.0  # progress is written at most this often
_LOGGED: Final = 0.2  # and logged at each of these shares
_AGAIN_MS: Final = 600_000  # after a failure, such as a store that is away

Outcome = str  # waiting, busy, published, refused, failed


@dataclass(frozen=True)
class TrainerParams:
    """How the trainer decides and how it trains.

    Attributes:
        due: when.
        gate: what a candidate must hold.
        train: how a model is made.
        job: how the job looks at lines; its budget is the one of all services together.
        keep: versions kept of each service.
    """

    due: DueParams
    gate: GateParams
    train: TrainParams
    job: JobParams
    keep: int = 10


@dataclass
class Trainer:
    """Looks at services one at a time.

    Args:
        client: Redis.
        redis_params: its prefix.
        store: of the models.
        control: the control topic.
        params: how.
        clock: ms since the epoch.
    """

    client: redis.Redis
    redis_params: RedisParams
    store: Store
    control: ControlTopic
    params: TrainerParams
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    log: FeedbackLog = field(default_factory=FeedbackLog)

    def __post_init__(self) -> None:
        self.records = Records(self.client, self.redis_params)
        self._seen: dict[str, str] = {}  # newest entry that was looked at and found too little
        self._failed_ms: dict[str, int] = {}

    def services(self) -> list[str]:
        """The services that have a buffer."""
        return read_services(self.client, self.redis_params)

    def look(self, service: str, *, is_asked: bool = False, wait_s: float = 0.0) -> Outcome:
        """Train the service's model if that is due, or asked for.

        Args:
            service: whose.
            is_asked: train now, if only the lines suffice.
            wait_s: how long to wait for another trainer that is at the same service.
        """
        with self.records.lease(service, wait_s) as lease:
            if lease is None:
                logger.info("{}: another trainer is at it", service)
                return "busy"
            self.control.refresh(self.log)
            published = self._announce_left(service)
            fields = self.records.read(service)
            asked_ms = int(fields.get("asked_ms") or 0)
            newest = self._newest(service)
            if published and not is_asked:
                return "published"
            last = self.records.last(service)
            is_asked = is_asked or asked_ms > (last.at_ms if last else 0)
            is_early = self.clock() < self._failed_ms.get(service, -_AGAIN_MS) + _AGAIN_MS
            if newest is None or (not is_asked and (is_early or self._seen.get(service) == newest)):
                return "waiting"
            try:
                return self._consider(service, newest, last, lease, is_asked=is_asked)
            except (DataSetError, ArtefactError, LostLockError) as error:
                logger.error("{}: {}", service, error)
                self._failed_ms[service] = self.clock()
                self.records.write(service, {"state": "failed", "why": str(error), "at": self._at()})
                return "failed"
            except KeyboardInterrupt:
                why = "the trainer was stopped; the next one begins again"
                self.records.write(service, {"state": "waiting", "why": why, "at": self._at()})
                raise

    def _consider(self, service: str, newest: str, last: Last | None, lease: Lease, *, is_asked: bool) -> Outcome:
        params = self.params
        announced = self.log.model(service)
        has_model = announced is not None and self.store.has(service, announced.model_version)
        if last is not None and not is_asked:
            count = last.lines if has_model else self._buffered(service)
            time_to = again(last, newest, count, self.clock(), params.due, has_model=has_model)
            if not time_to.is_met:
                return self._wait(service, newest if not has_model else "", time_to, count)
        lines, texts = self._read(service)
        prepared = prepare(lines, texts, self.log, params.job.templates)
        suffices = enough(prepared.lines, params.due)
        if is_asked:  # a person need not wait for templates to settle
            suffices = Decision(tuple(one for one in suffices.criteria if one.name == "lines"))
        if not suffices.is_met:
            return self._wait(service, newest, suffices, len(prepared.lines))
        present = self.store.load(service, announced.model_version) if announced is not None and has_model else None
        began = self.clock()
        why = "asked for" if is_asked else "first training" if last is None else "due again"
        logger.info("{}: training on {:,} lines ({})", service, len(prepared.lines), why)
        self.records.write(
            service,
            {
                "state": "training",
                "why": why,
                "at": self._at(),
                "done": 0,
                "lines": len(prepared.lines),
                "sessions": prepared.lines.sessions,
                "notes": orjson.dumps(prepared.notes).decode(),
                "loss": "[]",
                "gate": "[]",
            },
        )
        job = replace(params.job, fusion=self._fusion(service))
        origin = {"source": f"redis:{self.redis_params.sequences_key(service)}"}
        progress = _Progress(service, self.records)
        renewal = renew(prepared, present, params.train, job, params.gate, origin, progress.tell)
        return self._conclude(service, renewal, Last(began, len(lines), newest, True), lease, present, prepared.lines)

    def _conclude(
        self,
        service: str,
        renewal: Renewal,
        last: Last,
        lease: Lease,
        present: Artefact | None,
        lines: BufferedLines,
    ) -> Outcome:
        began = last.at_ms
        self.control.refresh(self.log)
        announced = self.log.model(service)
        candidate, decision = renewal.candidate, renewal.decision
        outcome, why = "published", decision.words
        if not decision.is_met:
            outcome = "refused"
        elif announced is not None and announced.version > began:
            outcome, why = "refused", f"{announced.by} set the model {announced.model_version} meanwhile; that stays"
        elif present is not None and present.version == candidate.version:
            outcome, why = "unchanged", "the same lines make the same model, which judges the service already"
        fields: dict[str, str | int | float] = {
            "state": outcome,
            "why": why,
            "at": self._at(),
            "loss": orjson.dumps(renewal.curve).decode(),
            "gate": orjson.dumps(decision.to_json()).decode(),
            "notes": orjson.dumps(renewal.notes).decode(),
            "lines": len(lines),
        }
        run = {
            "at": self._at(),
            "seconds": round((self.clock() - began) / 1000, 1),
            "state": outcome,
            "why": why,
            "version": candidate.version,
            "lines": len(lines),
            "sessions": lines.sessions,
            "loss": renewal.curve,
            "gate": decision.to_json(),
            "notes": renewal.notes,
            "metrics": dict(candidate.metrics),
        }
        done = replace(last, at_ms=self.clock(), is_published=outcome != "refused")
        lease.check()
        if outcome == "published":
            self.records.write(service, {"publishing": candidate.version, "publishing_ms": self.clock()})
            self.store.save(candidate)
            lease.check()
            self.announce(service, candidate.version, f"trained on {len(lines):,} lines; {decision.words}"[:1_000])
            fields["version"] = candidate.version
        self.records.finish(service, done, fields, run)
        logger.log(
            "INFO" if outcome != "refused" else "WARNING", "{}: {} {}: {}", service, candidate.version, outcome, why
        )
        if outcome == "published":
            self.store.prune(service, self.params.keep, {candidate.version})
        return outcome

    # ---- models

    def announce(self, service: str, version: str, why: str, by: str = BY) -> SetModel:
        """Let the job judge a service by this version, on the control topic.

        Raises: SinkError if the broker does not confirm it.
        """
        before = self.log.model(service)
        modelled = self._modelled()
        command = SetModel(**say(service=service, by=by, why=why, model_version=version))
        if before is not None and command.version <= before.version:  # a clock that lags must not make it the older one
            command = command.model_copy(update={"version": before.version + 1})
        if service not in modelled:  # one more shares the budget; first, so that a kill leaves less told, not more
            shares = len(modelled) + 1
            self.control.send(SetShares(**say(service=EVERY, by=by, why=f"{service} has a model", shares=shares)))
        self.control.send(command)
        self.log.add(command)
        logger.info("{}: announced {}", service, version)
        return command

    def roll_back(self, service: str, version: str | None, by: str) -> SetModel:
        """Announce an older version.

        Args:
            service: whose.
            version: which; None for the newest that is older than the one announced.
            by: who wants it.

        Raises: ArtefactError if there is none, or it cannot be used; SinkError if the broker does not confirm it.
        """
        self.control.refresh(self.log)
        announced = self.log.model(service)
        if version is None:
            version = self._older(service, announced)
        self.store.load(service, version)
        return self.announce(
            service, version, f"rolled back from {announced.model_version if announced else 'none'}", by
        )

    def versions(self, service: str) -> list[tuple[Version, bool]]:
        """The versions of a service, the newest first, and whether each is the one announced."""
        self.control.refresh(self.log)
        announced = self.log.model(service)
        return [
            (one, announced is not None and announced.model_version == one.version)
            for one in self.store.versions(service)
        ]

    def _older(self, service: str, announced: SetModel | None) -> str:
        versions = [one.version for one in self.store.versions(service)]
        if announced is None or announced.model_version not in versions:
            raise ArtefactError(
                f"It is not known which version judges {service!r} now; name the one to go back to with --to, as `driftwood trainer --list` shows."
            )
        older = versions[versions.index(announced.model_version) + 1 :]
        if not older:
            raise ArtefactError(
                f"{announced.model_version} is the oldest version of {service!r} in the store; there is none to go back to."
            )
        return older[0]

    def _announce_left(self, service: str) -> bool:
        """Announce a version that a trainer stored and did not live to announce; True if it is announced now."""
        fields = self.records.read(service)
        version = fields.get("publishing")
        if not version:
            return False
        announced = self.log.model(service)
        is_told = announced is not None and announced.model_version == version
        is_overtaken = announced is not None and announced.version > int(fields.get("publishing_ms") or 0)
        if not self.store.has(service, version) or (is_overtaken and not is_told):
            self.records.write(service, {"publishing": ""})
            return False
        if not is_told:
            self.announce(service, version, "trained before the trainer was stopped")
        newest = self._newest(service) or ""
        lines = next(one.lines for one in self.store.versions(service) if one.version == version)
        why = "published after the trainer was stopped"
        run = {"at": self._at(), "state": "published", "why": why, "version": version, "lines": lines}
        self.records.finish(
            service,
            Last(self.clock(), lines, newest, True),
            {"state": "published", "why": why, "at": self._at(), "version": version, "lines": lines},
            run,
        )
        self.store.prune(service, self.params.keep, {version})
        return True

    def _modelled(self) -> set[str]:
        """The services that have been given a model."""
        return {service for service in self.log.services() if self.log.model(service) is not None}

    def _fusion(self, service: str) -> FusionParams:
        """The budget of one service, as the job sees it."""
        fusion = self.params.job.fusion
        own = self.log.budget(service)
        if own is not None and own.per_day is not None:
            return replace(fusion, budget_per_day=own.per_day, shares=1)
        return replace(fusion, shares=len(self._modelled() | {service}))

    def _at(self) -> str:
        """The time, ISO 8601."""
        return datetime.fromtimestamp(self.clock() / 1000, UTC).isoformat(timespec="seconds")

    # ---- the buffer

    def _newest(self, service: str) -> str | None:
        """The newest entry of a service's stream; None if there is none."""
        found = cast("list[Any]", self.client.xrevrange(self.redis_params.sequences_key(service), count=1))
        return found[0][0].decode() if found else None

    def _buffered(self, service: str) -> int:
        return len(gather(service, read_sequences(self.client, self.redis_params, service)))

    def _read(self, service: str) -> tuple[BufferedLines, dict[int, str]]:
        lines = gather(service, read_sequences(self.client, self.redis_params, service))
        return lines, read_templates(self.client, self.redis_params, service)

    def _wait(self, service: str, newest: str, decision: Decision, lines: int) -> Outcome:
        """Note what a service waits for; it is read again when new lines have come."""
        self._seen[service] = newest
        self.records.write(
            service,
            {
                "state": "waiting",
                "why": decision.words,
                "due": orjson.dumps(decision.to_json()).decode(),
                "at": self._at(),
                "lines": lines,
            },
        )
        return "waiting"


class _Progress:
    """The progress of one training: into the records at most once a second, into the log now and then."""

    def __init__(self, service: str, records: Records) -> None:
        self._service, self._records = service, records
        self._part, self._loss = "", list[float]()
        self._told = self._logged = -1.0

    def tell(self, what: str, done: float, loss: float | None) -> None:
        part = what.partition(",")[0]
        if part != self._part:  # the trial's losses are not the candidate's
            self._part, self._loss = part, []
        if loss is not None:
            self._loss.append(round(loss, 5))
        now = time.monotonic()
        if now - self._told < _TOLD_S:
            return
        self._told = now
        fields: dict[str, str | float] = {
            "step": what,
            "done": round(done, 3),
            "loss": orjson.dumps(self._loss).decode(),
        }
        with suppress(redis.ConnectionError, redis.TimeoutError):  # it is for people only; training goes on
            self._records.write(self._service, fields)
        if done - self._logged >= _LOGGED:
            self._logged = done
            logger.info("{}: {:.0%} {}{}", self._service, done, what, "" if loss is None else f", loss {loss:.4f}")


def created_words(created: str) -> str:
    """A time of the manifest for a table.

    >>> created_words("2026-01-01T10:00:00+00:00")
    '2026-01-01 10:00'
    """
    return datetime.fromisoformat(created).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
