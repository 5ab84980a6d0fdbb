"""What people, and the trainer, have said of one service: what is in force, by whom, and what came of each command.

State: at most `_MUTES` patterns, `_WANTED` lines and `_SUBJECTS` versions a service; JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from models.control import EditTemplate, Feedback, Release, Undo
from models.errors import SettingsError
from models.patterns import Muted
from models.template_edits import Edits, check_mask

_MUTES: Final = 2_000
_WANTED: Final = 200
_SUBJECTS: Final = 5_000
_ANSWERS: Final = 20
_RELEASES: Final = 10
_EDITS: Final = 500
_UNDO_FIRST: Final = "undo "


class Known(Protocol):
    """The templates of a service, to be asked."""

    def find(self, message: str) -> int | None:
        """The id of the template of a message; None if there is none yet."""

    def has(self, template: int) -> bool:
        """Whether there is a template of this id."""


class NothingKnown:
    """The templates of a service without any."""

    def find(self, message: str) -> int | None:
        """None."""

    def has(self, template: int) -> bool:
        """False."""
        return False


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
class Edit:
    """One change of the templates by hand, with the fields of its command."""

    command_id: str
    by: str
    action: str
    template_id: str | None
    into: str | None
    word: str | None
    name: str | None
    pattern: str | None


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
        shares: services that share the budget; 0 for those that the job was started with a model for.
        budget: its own false alerts a day; None for its share of the job's.
        mode_by: who set its mode by hand; empty if nobody.
        muted: by pattern.
        wanted: lines that are told whatever the detectors think.
        edits: of its templates.
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
    edits: list[Edit] = field(default_factory=list)
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

    def _is_taken_back(self, command: Feedback | EditTemplate) -> bool:
        return command.version <= self.versions.get(_UNDO_FIRST + command.command_id, -1)

    def answer(self, command_id: str, answer: Answer) -> None:
        """Keep what came of a command."""
        self.answers.pop(command_id, None)
        self.answers[command_id] = answer
        while len(self.answers) > _ANSWERS:
            del self.answers[next(iter(self.answers))]

    def take_feedback(self, feedback: Feedback, known: Known) -> Answer:
        """Let feedback act."""
        if self._is_taken_back(feedback):
            return Answer(False, "it was taken back")
        if feedback.label == "missed":
            return self._want(feedback, known)
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

    def _want(self, feedback: Feedback, known: Known) -> Answer:
        template = known.find(feedback.message) if feedback.message else None
        before = known.find(feedback.before) if feedback.before else None
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
        edits = len(self.edits)
        self.edits = [one for one in self.edits if one.command_id != undo.target]
        is_in_force = muted or wanted or len(self.edits) < edits
        return Answer(True, "" if is_in_force else "nothing of it was in force")

    @property
    def template_edits(self) -> Edits:
        """The changes of its templates together."""

        def of(action: str) -> Iterable[Edit]:
            return (one for one in self.edits if one.action == action)

        return Edits(
            joined={_id(one.template_id): _id(one.into) for one in of("join")},
            pinned=frozenset(_id(one.template_id) for one in of("pin")),
            keep_words=frozenset((one.word or "").lower() for one in of("keep")),
            masks=tuple((one.name or "", one.pattern or "") for one in of("mask")),
        )

    def take_edit(self, command: EditTemplate, known: Known) -> Answer:
        """Change the templates."""
        if self._is_taken_back(command):
            return Answer(False, "it was taken back")
        subject = f"{command.action} {command.template_id or command.word or command.pattern}"
        if command.version <= self.versions.get(subject, -1):
            return Answer(False, "a newer command about it is in force")
        for number in filter(None, (command.template_id, command.into)):
            if not known.has(int(number, 16)):
                return Answer(False, f"the service has no template {number}")
        if command.action == "join" and self.template_edits.final(_id(command.into)) == _id(command.template_id):
            return Answer(False, f"{command.into} counts as {command.template_id} already")
        if command.pattern is not None:
            try:
                check_mask(command.pattern)
            except SettingsError as error:
                return Answer(False, str(error))
        if len(self.edits) >= _EDITS:
            return Answer(False, f"{_EDITS} changes are in force already; take one back first")
        self.is_newer(subject, command.version)
        fields = ("action", "template_id", "into", "word", "name", "pattern")
        made = Edit(command.command_id, command.by, *(getattr(command, name) for name in fields))
        same = (made.action, made.template_id, made.word, made.pattern)
        self.edits = [one for one in self.edits if (one.action, one.template_id, one.word, one.pattern) != same]
        self.edits.append(made)
        return Answer(True, "lines are placed so from now on")

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
        edits = [Edit(**one) for one in row["edits"]]
        deploys = [Deploy(**one) for one in row["deploys"]]
        answers = {name: Answer(**one) for name, one in row["answers"].items()}
        return cls(**row | {"muted": muted, "wanted": wanted, "edits": edits, "deploys": deploys, "answers": answers})

    def check(self) -> None:
        """Raise AssertionError unless the bounds hold."""
        assert len(self.muted) <= _MUTES
        assert len(self.wanted) <= _WANTED
        assert len(self.versions) <= _SUBJECTS
        assert len(self.answers) <= _ANSWERS
        assert len(self.deploys) <= _RELEASES
        assert len(self.edits) <= _EDITS


def _id(number: str | None) -> int:
    return int(number or "0", 16)
