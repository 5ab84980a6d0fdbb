"""What people, and the trainer, have said of one service: what is in force, by whom, and what came of each command.

State: at most `_MUTES` patterns, `_WANTED` lines and `_SUBJECTS` versions a service; JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from models.control import Feedback, Release, Undo
from models.patterns import Muted

_MUTES: Final = 2_000
_WANTED: Final = 200
_SUBJECTS: Final = 5_000
_ANSWERS: Final = 20
_RELEASES: Final = 10
_UNDO_FIRST: Final = "undo "

#: From a message to the id of its template in the service; None if it has none yet.
Find = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Lines that are told whatever the detectors think.

    Attributes:
        template: of the line.
        before: of the line before it; None for any.
        command_id, by, why: of whom it is.
    """

    template: int
    before: int | None
    command_id: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Deploy:
    """A release, and until when what is new counts as its doing; event times, ms."""

    label: str
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command: whether it was obeyed, and in words why not or what it did."""

    is_obeyed: bool
    why: str = ""


@dataclass
class Said:
    """What is in force for one service.

    Attributes:
        model: version that judges it; empty for the one the job was started with.
        shares: services that share the budget, as told with the model.
        budget: its own false alerts a day; None for its share of the job's.
        mode_by: who set its mode by hand; empty if nobody.
        muted: by pattern.
        wanted: lines that are told whatever the detectors think.
        deploys: the last releases.
        versions: of the last command obeyed, by subject.
        answers: to the last commands, by id.
    """

    model: str = ""
    shares: int = 0
    budget: float | None = None
    mode_by: str = ""
    muted: dict[str, Muted] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    deploys: list[Deploy] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    def is_newer(self, subject: str, version: int) -> bool:
        """Whether a command of this version may change the subject; if so it is the last that did."""
        if version <= self.versions.get(subject, -1):
            return False
        self.versions.pop(subject, None)
        self.versions[subject] = version
        if len(self.versions) > _SUBJECTS:
            del self.versions[next(iter(self.versions))]
        return True

    def answer(self, command_id: str, answer: Answer) -> None:
        """Keep what came of a command."""
        self.answers.pop(command_id, None)
        self.answers[command_id] = answer
        while len(self.answers) > _ANSWERS:
            del self.answers[next(iter(self.answers))]

    def take_feedback(self, feedback: Feedback, find: Find) -> Answer:
        """Let feedback act."""
        if feedback.version <= self.versions.get(_UNDO_FIRST + feedback.command_id, -1):
            return Answer(False, "it was taken back")
        if feedback.label == "missed":
            return self._want(feedback, find)
        fresh = [one for one in feedback.patterns if self.is_newer(one.pattern, feedback.version)]
        if not fresh:
            why = "it names no pattern" if not feedback.patterns else "a newer command about its patterns is in force"
            return Answer(feedback.label == "anomalous" and not feedback.patterns, why)
        for one in fresh:
            self.muted.pop(one.pattern, None)
            if feedback.label != "anomalous":
                self.muted[one.pattern] = Muted(
                    one.level, feedback.until_ms, feedback.label == "normal", feedback.command_id, feedback.by
                )
        gone = len(self.muted) - _MUTES
        for name in list(self.muted)[: max(0, gone)]:
            del self.muted[name]
        if feedback.label == "anomalous":
            return Answer(True, "its patterns are told")
        return Answer(
            True, "its patterns are not told any more" + (f"; the {gone} oldest gave way" if gone > 0 else "")
        )

    def _want(self, feedback: Feedback, find: Find) -> Answer:
        template = find(feedback.message) if feedback.message else None
        before = find(feedback.before) if feedback.before else None
        if template is None or (feedback.before and before is None):
            return Answer(False, "no line of this service has such a text; copy the whole line as it was shown")
        if not self.is_newer(f"wanted {template} {before}", feedback.version):
            return Answer(False, "a newer command about this line is in force")
        if len(self.wanted) >= _WANTED:
            return Answer(False, f"{_WANTED} lines are wanted already; take one back first")
        self.wanted = [one for one in self.wanted if (one.template, one.before) != (template, before)]
        self.wanted.append(Wanted(template, before, feedback.command_id, feedback.by, feedback.why[:200]))
        return Answer(True, "such lines are told from now on")

    def take_back(self, undo: Undo) -> Answer:
        """Undo what a piece of feedback did; it stays undone if it is read again."""
        if not self.is_newer(_UNDO_FIRST + undo.target, undo.version):
            return Answer(False, "it was taken back before")
        muted = [name for name, one in self.muted.items() if one.command_id == undo.target]
        for name in muted:
            del self.muted[name]
            self.is_newer(name, undo.version)
        wanted = [one for one in self.wanted if one.command_id == undo.target]
        self.wanted = [one for one in self.wanted if one.command_id != undo.target]
        for line in wanted:
            self.is_newer(f"wanted {line.template} {line.before}", undo.version)
        return Answer(True, "" if muted or wanted else "nothing of it was in force")

    def take_release(self, release: Release) -> Answer:
        """Keep a release."""
        if not self.is_newer(f"release {release.label}", release.version):
            return Answer(False, "a newer command about this release is in force")
        deploy = Deploy(release.label, release.ts_ms, release.ts_ms + release.minutes * 60_000)
        self.deploys = [*(one for one in self.deploys if one.label != release.label), deploy][-_RELEASES:]
        return Answer(True, f"what is new in the {release.minutes} minutes after it is one item")

    def deploy_at(self, now_ms: int) -> Deploy | None:
        """The newest release whose doing something new at this event time may be."""
        return next((one for one in reversed(self.deploys) if one.from_ms <= now_ms <= one.until_ms), None)

    def to_row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Said:
        """The inverse of `to_row`."""
        muted = {name: Muted(**one) for name, one in row["muted"].items()}
        wanted = [Wanted(**one) for one in row["wanted"]]
        deploys = [Deploy(**one) for one in row["deploys"]]
        answers = {name: Answer(**one) for name, one in row["answers"].items()}
        return cls(**row | {"muted": muted, "wanted": wanted, "deploys": deploys, "answers": answers})

    def check(self) -> None:
        """Raise AssertionError unless the bounds hold."""
        assert len(self.muted) <= _MUTES
        assert len(self.wanted) <= _WANTED
        assert len(self.versions) <= _SUBJECTS
        assert len(self.answers) <= _ANSWERS
        assert len(self.deploys) <= _RELEASES
