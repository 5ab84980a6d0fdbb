"""What people have said of anomalies: the feedback of the control topic, indexed for the list. Pure.

```
control topic ─→ Feedback ─→ by anomaly: the newest is its label
                        └──→ by pattern: the newest decides whether its repeats are told
                 Undo ────→ takes one out; what it had replaced does not return
```

The rules are those of models/learning/feedback_log.py, by which the job obeys; a list of 10,000 rows asks too often to fold the log for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from models.control import EVERY, Command, Feedback, Release, Undo

MAX_MARKS: Final = 50_000
MAX_RELEASES: Final = 1_000
#: Characters of a line that a command can hold (models/control.py).
MAX_MESSAGE: Final = 8_000
#: Labels whose patterns the job tells no more.
MUTING: Final = frozenset({"normal", "suppressed"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of feedback, and who took it back if somebody did."""

    given: Feedback
    undone_by: str | None

    @property
    def is_standing(self) -> bool:
        """It was not taken back."""
        return self.undone_by is None


@dataclass
class Marks:
    """All feedback of a console.

    State: the newest `MAX_MARKS` pieces and undos, and `MAX_RELEASES` releases.
    """

    releases: list[Release] = field(default_factory=list)
    _by_command: dict[str, Feedback] = field(default_factory=dict)
    _by_anomaly: dict[str, list[Feedback]] = field(default_factory=dict)
    _by_pattern: dict[tuple[str, str], list[Feedback]] = field(default_factory=dict)
    _by_line: dict[tuple[str, str], list[Feedback]] = field(default_factory=dict)  # missed: (service, message)
    _undone: dict[tuple[str, str], str] = field(
        default_factory=dict
    )  # (service, command) → by; it may be read before the command

    def apply(self, command: Command) -> None:
        """Take in one command; one that is read twice changes nothing."""
        if isinstance(command, Feedback):
            self._mark(command)
        elif isinstance(command, Undo):
            self._undone.setdefault((command.service, command.target), command.by)
            if len(self._undone) > MAX_MARKS:
                self._undone.pop(next(iter(self._undone)))
        elif isinstance(command, Release) and command not in self.releases:
            self.releases = [*self.releases[1 - MAX_RELEASES :], command]

    def of(self, anomaly_id: str) -> Mark | None:
        """The newest mark of an anomaly, if it stands."""
        return self._standing(self._by_anomaly.get(anomaly_id, ()))

    def history(self, anomaly_id: str) -> list[Mark]:
        """Every mark of an anomaly, the newest first."""
        given = sorted(self._by_anomaly.get(anomaly_id, ()), key=lambda one: one.version)
        return [self._as_mark(one) for one in reversed(given)]

    def by_command(self, command_id: str) -> Mark | None:
        """The mark that a command made."""
        given = self._by_command.get(command_id)
        return None if given is None else self._as_mark(given)

    def missed(self, service: str, message: str) -> Mark | None:
        """The newest mark that calls such a line missed, if it stands."""
        return self._standing(self._by_line.get((service, message[:MAX_MESSAGE]), ()))

    def of_pattern(self, service: str, pattern: str) -> Mark | None:
        """The newest mark of a pattern, if it stands."""
        every = self._by_pattern.get((EVERY, pattern), [])
        return self._standing([*self._by_pattern.get((service, pattern), ()), *every])

    def muting(self, service: str, patterns: Iterable[str], ts: int) -> Mark | None:
        """The mark that keeps all of these patterns from being told at an event time; None where one of them would be told."""
        found = None
        for pattern in patterns:
            found = self.of_pattern(service, pattern)
            if found is None or found.given.label not in MUTING:
                return None
            if found.given.until_ms is not None and ts > found.given.until_ms:
                return None
        return found

    def labels(self) -> Iterator[Mark]:
        """The mark of every anomaly that has one that stands."""
        return (mark for number in self._by_anomaly if (mark := self.of(number)) is not None)

    def _as_mark(self, given: Feedback) -> Mark:
        undone = self._undone
        if not undone:
            return Mark(given, None)
        return Mark(given, undone.get((given.service, given.command_id)) or undone.get((EVERY, given.command_id)))

    def _standing(self, given: Sequence[Feedback]) -> Mark | None:
        if not given:
            return None
        mark = self._as_mark(max(reversed(given), key=lambda one: one.version))  # of equal versions, the one read last
        return mark if mark.is_standing else None

    def _mark(self, given: Feedback) -> None:
        if given.command_id in self._by_command:
            return
        self._by_command[given.command_id] = given
        if given.anomaly_id is not None:
            self._by_anomaly.setdefault(given.anomaly_id, []).append(given)
        for found in given.patterns:
            self._by_pattern.setdefault((given.service, found.pattern), []).append(given)
        if given.label == "missed":
            self._by_line.setdefault((given.service, given.message), []).append(given)
        if len(self._by_command) > MAX_MARKS:
            self._forget(self._by_command.pop(next(iter(self._by_command))))

    def _forget(self, given: Feedback) -> None:
        if given.anomaly_id is not None:
            self._by_anomaly[given.anomaly_id].remove(given)
            if not self._by_anomaly[given.anomaly_id]:
                del self._by_anomaly[given.anomaly_id]
        for found in given.patterns:
            key = (given.service, found.pattern)
            self._by_pattern[key].remove(given)
            if not self._by_pattern[key]:
                del self._by_pattern[key]
        line = given.service, given.message
        if given.label == "missed":
            self._by_line[line].remove(given)
            if not self._by_line[line]:
                del self._by_line[line]
