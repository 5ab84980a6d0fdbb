"""What people do, as commands of the control topic: checked, built, sent, and followed until the job has obeyed.

```
click or POST ─→ Desk: role, build ─→ sender (acks=all) ─→ control topic ─→ job ─→ status topic ─→ board.acks
```
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import ValidationError

from console.access import Role, User, require
from console.audit import Audit
from console.board import Board, Row
from console.fields import mappings
from console.marks import MAX_MESSAGE
from models.control import Command, EditTemplate, Feedback, Pattern, Release, SetBudget, SetMode, SetModel, Undo
from models.errors import DriftwoodError

#: How long a suppression lasts, by the words on its buttons; None is for ever.
SPANS: Final[dict[str, int | None]] = {"1 h": 3_600_000, "1 day": 86_400_000, "ever": None}
_SLOW_MS: Final = 10_000  # without an answer for so long, something is wrong

Label = Literal["normal", "suppressed", "anomalous", "missed"]
Send = Callable[[Command], None]  # returns when the brokers have it; raises SinkError


class CommandError(DriftwoodError):
    """A command cannot be given as asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command fared: `sent`, `obeyed`, `refused`, or `waiting` when the job is silent for too long; with a sentence."""

    state: str
    said: str


class Desk:
    """Gives commands on behalf of users.

    Args:
        board: what is known.
        send: puts a command on the topic.
        audit: is told of every command and refusal.
        now_ms: milliseconds since the epoch.
    """

    def __init__(self, board: Board, send: Send, audit: Audit, now_ms: Callable[[], int]) -> None:
        self.board = board
        self._send = send
        self._audit = audit
        self._now_ms = now_ms
        self._version = 0
        self._sent: dict[str, int] = {}

    # ---- what people do

    def mark(self, user: User, anomaly_id: str, label: Label, why: str = "", span: str = "ever") -> Command:
        """Say of an anomaly that it is normal, anomalous or to be suppressed for a span."""
        if label == "missed":
            raise CommandError("An anomaly was not missed; mark a line of the lines page as missed.")
        row = self._row(anomaly_id)
        if span not in SPANS:
            raise CommandError(f"{span!r} is no span; choose {', '.join(SPANS)}.")
        ms = SPANS[span]
        # Event time: in a replay the clock on the wall says nothing of when the lines are from.
        now_ms = max(row.told.ts, self.board.last_ts(row.told.service))
        until_ms = now_ms + ms if label == "suppressed" and ms is not None else None
        fields = {"label": label, "anomaly_id": row.told.anomaly_id, "patterns": _patterns(row), "until_ms": until_ms}
        return self._give(user, Role.TRIAGER, Feedback, row.told.service, why, **fields)

    def missed(self, user: User, service: str, message: str, before: str = "", why: str = "") -> Command:
        """Say of a line that it should have been told."""
        if not message.strip():
            raise CommandError("A line without text cannot be told apart from others.")
        fields = {"label": "missed", "message": message[:MAX_MESSAGE], "before": before[:MAX_MESSAGE]}
        return self._give(user, Role.TRIAGER, Feedback, service, why, **fields)

    def undo(self, user: User, command_id: str, why: str = "") -> Command:
        """Take a piece of feedback back."""
        mark = self.board.marks.by_command(command_id)
        if mark is None:
            raise CommandError(
                f"There is no feedback {command_id!r} here; it may be older than what the console has read."
            )
        if not mark.is_standing:
            raise CommandError(f"That was taken back by {mark.undone_by} already.")
        return self._give(user, Role.TRIAGER, Undo, mark.given.service, why, target=command_id)

    def take_back(self, user: User, service: str, command_id: str, why: str = "") -> Command:
        """Take back what the job says is in force: a muted pattern, a wanted line, a change of templates; by the id that it gives for it."""
        status = self.board.statuses.get(service, {})
        least = None
        for name, role in (("muted", Role.TRIAGER), ("wanted", Role.TRIAGER), ("edits", Role.ADMIN)):
            if any(one.get("command_id") == command_id for one in mappings(status.get(name))):
                least = role
        if least is None:
            raise CommandError(f"Nothing of {command_id!r} is in force for {service}; it was taken back already.")
        return self._give(user, least, Undo, service, why, target=command_id)

    def draft_edit(self, user: User, service: str, fields: Mapping[str, str]) -> EditTemplate:
        """A change of templates as it would be sent, to be looked at first; empty fields are left out."""
        require(user, Role.ADMIN, f"EditTemplate of {service}")
        named = {"command_id": "preview", "version": 0, "service": service, "by": user.name}
        draft: EditTemplate = _made(EditTemplate, **named, **_given(fields))
        return draft

    def edit_template(self, user: User, service: str, fields: Mapping[str, str], why: str = "") -> Command:
        """Join a template to another, pin one, keep a word, or add a mask."""
        return self._give(user, Role.ADMIN, EditTemplate, service, why, **_given(fields))

    def set_mode(self, user: User, service: str, mode: str, why: str = "") -> Command:
        """Set a service's mode by hand, or hand it back to the criteria."""
        return self._give(user, Role.ADMIN, SetMode, service, why, mode=mode)

    def set_model(self, user: User, service: str, model_version: str, why: str = "") -> Command:
        """Let a service be judged by a version of its model."""
        return self._give(user, Role.ADMIN, SetModel, service, why, model_version=model_version)

    def set_budget(self, user: User, service: str, per_day: float | None, why: str = "") -> Command:
        """Set the false alerts a day of a service; None takes the job's setting."""
        return self._give(user, Role.ADMIN, SetBudget, service, why, per_day=per_day)

    def release(self, user: User, service: str, label: str, ts_ms: int, minutes: int = 30, why: str = "") -> Command:
        """Note a deploy."""
        return self._give(user, Role.ADMIN, Release, service, why, label=label, ts_ms=ts_ms, minutes=minutes)

    # ---- how it fares

    def answer(self, command_id: str) -> Answer:
        """How a command fared so far."""
        ack = self.board.acks.get(command_id)
        if ack is not None:
            is_obeyed, why = ack
            return (
                Answer("obeyed", why or "the job obeyed") if is_obeyed else Answer("refused", why or "the job refused")
            )
        sent = self._sent.get(command_id)
        if sent is None:
            return Answer("sent", "")
        if self._now_ms() - sent > _SLOW_MS:
            return Answer("waiting", "the job has not answered yet; is it running, and does it read the control topic?")
        return Answer("sent", "sent, waiting for the job")

    def _row(self, anomaly_id: str) -> Row:
        row = self.board.row(anomaly_id)
        if row is None:
            raise CommandError(
                f"There is no anomaly {anomaly_id!r} here; the console keeps the newest {self.board.most:,}."
            )
        return row

    def _give(self, user: User, least: Role, kind: type[Any], service: str, why: str, **fields: object) -> Command:
        try:
            require(user, least, f"{kind.__name__} of {service}")
        except DriftwoodError as error:
            self._audit.write("refused", user.name, "", str(error))
            raise
        self._version = max(self._now_ms(), self._version + 1)
        command: Command = _made(
            kind,
            command_id=f"console-{secrets.token_hex(8)}",
            version=self._version,
            service=service,
            by=user.name,
            why=why[:1_000],
            **fields,
        )
        self._send(command)
        self._sent[command.command_id] = self._now_ms()
        while len(self._sent) > 10_000:
            self._sent.pop(next(iter(self._sent)))
        self._audit.write("command", user.name, "", f"{command.kind} {command.command_id} {service}")
        return command


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that were filled in; a space may mean something in an expression only."""
    return {name: value if name == "pattern" else value.strip() for name, value in fields.items() if value.strip()}


def _made(kind: type[Any], **fields: object) -> Any:
    try:
        return kind(**fields)
    except ValidationError as error:
        faults = "; ".join(
            ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"]))) for fault in error.errors()
        )
        raise CommandError(f"This cannot be asked of the job: {faults}.") from error


def _patterns(row: Row) -> tuple[Pattern, ...]:
    try:
        return tuple(Pattern(pattern=pattern, level=level) for pattern, level in row.told.patterns[:64])
    except ValidationError as error:
        raise CommandError("The anomaly's patterns are of another version of the job; update the console.") from error
