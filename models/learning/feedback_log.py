"""What people and the trainer have said on the control topic, folded into what holds now.

```
commands of the topic, in any order, some twice ─ add ─→ FeedbackLog ─→ patterns, missed lines, models, modes, budgets in force
```

By subject (a pattern, a service's model, its mode, …) the newest version wins. A command that was taken back stays taken back, even if it is read after its
undo; what it had replaced does not return. These are the rules by which the job obeys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from models.control import EVERY, Command, EditTemplate, Feedback, Pattern, Release, SetBudget, SetMode, SetModel, Undo

_MOST: Final = 20_000  # commands kept of a service; the oldest give way
C = TypeVar("C", SetModel, SetMode, SetBudget, Release)


@dataclass(frozen=True, slots=True)
class Held:
    """A pattern of which feedback is in force."""

    pattern: Pattern
    feedback: Feedback


@dataclass(slots=True)
class _Service:
    commands: dict[str, Command] = field(default_factory=dict)  # by id, in order of version
    undone: set[str] = field(default_factory=set)


class FeedbackLog:
    """The commands of all services, and what of them is in force.

    State: at most 20,000 commands a service.

    >>> log = FeedbackLog()
    >>> log.add(SetModel(command_id="a", version=2, service="cart", by="trainer", model_version="0123456789ab"))
    True
    >>> log.add(SetModel(command_id="b", version=1, service="cart", by="ada", model_version="ba9876543210"))
    True
    >>> log.model("cart").model_version
    '0123456789ab'
    """

    def __init__(self) -> None:
        self._services: dict[str, _Service] = {}

    def add(self, command: Command) -> bool:
        """Take one command; False if it was there before."""
        state = self._services.setdefault(command.service, _Service())
        if command.command_id in state.commands:
            return False
        newest = next(reversed(state.commands.values()), None)
        state.commands[command.command_id] = command
        if newest is not None and command.version < newest.version:
            state.commands = dict(sorted(state.commands.items(), key=lambda item: item[1].version))
        if isinstance(command, Undo):
            state.undone.add(command.target)
        if len(state.commands) > _MOST:
            del state.commands[next(iter(state.commands))]
        return True

    def services(self) -> list[str]:
        """The services that commands name, sorted; without `*`."""
        return sorted(self._services.keys() - {EVERY})

    def history(self, service: str) -> list[Command]:
        """The service's commands and those for every service, the newest first."""
        return sorted(self._of(service), key=lambda command: -command.version)

    def is_undone(self, command: Command) -> bool:
        """Whether a command was taken back."""
        return any(
            command.command_id in state.undone
            for name in (command.service, EVERY)
            if (state := self._services.get(name)) is not None
        )

    def model(self, service: str) -> SetModel | None:
        """The model that the service was last given."""
        return self._last(service, SetModel)

    def mode(self, service: str) -> SetMode | None:
        """The mode that was last set by hand, `auto` included."""
        return self._last(service, SetMode)

    def budget(self, service: str) -> SetBudget | None:
        """The budget that was last set."""
        return self._last(service, SetBudget)

    def releases(self, service: str) -> list[Release]:
        """The releases, the newest first."""
        return [one for one in self.history(service) if isinstance(one, Release) and not self.is_undone(one)]

    def patterns(self, service: str) -> dict[str, Held]:
        """By pattern the newest feedback about it; not those where that was taken back."""
        newest: dict[str, Held] = {}
        for feedback in self._feedback(service):
            newest.update({one.pattern: Held(one, feedback) for one in feedback.patterns})
        return {name: held for name, held in newest.items() if not self.is_undone(held.feedback)}

    def anomalies(self, service: str) -> dict[str, Feedback]:
        """By anomaly the newest feedback about it; not those where that was taken back."""
        newest = {one.anomaly_id: one for one in self._feedback(service) if one.anomaly_id is not None}
        return {name: feedback for name, feedback in newest.items() if not self.is_undone(feedback)}

    def missed(self, service: str) -> list[Feedback]:
        """The lines that people said should have been told, each once, the oldest first."""
        newest = {(one.message, one.before): one for one in self._feedback(service) if one.label == "missed"}
        return [feedback for feedback in newest.values() if not self.is_undone(feedback)]

    def joined(self, service: str) -> dict[int, int]:
        """By template the one that it counts as, where people joined templates; a ring of them joins nothing."""
        newest: dict[str | None, EditTemplate] = {}
        for command in sorted(self._of(service), key=lambda command: command.version):
            if isinstance(command, EditTemplate) and command.action == "join":
                newest[command.template_id] = command
        held = [one for one in newest.values() if not self.is_undone(one)]
        step = {int(one.template_id or "", 16): int(one.into or "", 16) for one in held}
        found = {}
        for template in step:
            last, seen = template, set[int]()
            while last in step and last not in seen:
                seen.add(last)
                last = step[last]
            if last not in seen:
                found[template] = last
        return found

    def _feedback(self, service: str) -> Iterator[Feedback]:
        """In order of version."""
        found = [one for one in self._of(service) if isinstance(one, Feedback)]
        yield from sorted(found, key=lambda command: command.version)

    def _of(self, service: str) -> Iterator[Command]:
        for name in dict.fromkeys((service, EVERY)):
            if name in self._services:
                yield from self._services[name].commands.values()

    def _last(self, service: str, kind: type[C]) -> C | None:
        found = [one for one in self._of(service) if isinstance(one, kind) and not self.is_undone(one)]
        return max(found, key=lambda command: command.version, default=None)
