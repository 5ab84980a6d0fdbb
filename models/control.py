"""Commands to the running job: what people and the trainer write on the control topic.

A command is one JSON object, keyed by its service. It acts on the state of that service and on nothing else; `*` is every service.

```
{"command_id": "9f1c…", "version": 1767225600000, "kind": "feedback", "service": "cart", "by": "ada", "why": "a deploy",
 "label": "normal", "anomaly_id": "633e3ad3da3cc7be", "patterns": [{"pattern": "line:order:5d41402a:7b52009b", "level": 3.2}]}
```

Each service keeps the version of the last command it obeyed by subject (its mode, its model, one pattern, …): an older one that arrives late is refused, so
that it cannot undo a newer one, and one that is read twice changes nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from models.errors import RecordError

#: Stands for every service, those not seen yet among them.
EVERY: Final = "*"
#: How a command's bytes begin, and nothing else that shares a stream with commands.
COMMAND: Final = b'{"command_id":'
#: A command longer than this is none.
MAX_BYTES: Final = 262_144

#: Of a line or the end of a session: kind, family of the detectors, template, and for the order of lines the template before.
_PATTERN = re.compile(r"(line|end|rate):[a-z]+:[0-9a-f]{8}:([0-9a-f]{8}|-)")
_VERSION = re.compile(r"[0-9a-f]{12}")

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Pattern(BaseModel):
    """What an anomaly has in common with its repeats: what was odd, and how odd it was.

    Attributes:
        pattern: as the anomaly's `patterns` give it.
        level: the evidence there was; what is clearly stranger than that is another matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str
    level: float = Field(ge=0, le=1_000)

    @field_validator("pattern")
    @classmethod
    def _form(cls, pattern: str) -> str:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError("no pattern; take those of the anomaly's field `patterns`")
        return pattern


class _Command(BaseModel):
    """What all commands have.

    Attributes:
        command_id: unique; a command that is read twice is obeyed once.
        version: time of the command, ms since the epoch; the newest wins.
        service: whose state it acts on.
        by, why: who gave it, and for what reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command_id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    version: int = Field(ge=0, le=1 << 53)
    service: Name
    by: Name
    why: str = Field(default="", max_length=1_000)

    def to_bytes(self) -> bytes:
        """The value of its message on the topic."""
        return orjson.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def key(self) -> bytes:
        """The key of its message on the topic: commands for one service stay in order."""
        return self.service.encode()


class SetMode(_Command):
    """Set a service's mode by hand; `auto` hands it back to the criteria."""

    kind: Literal["mode"] = "mode"
    mode: Literal["learning", "shadow", "live", "auto"]


class SetModel(_Command):
    """Let a service be judged by this version of its model, which is in the store. A roll back names an older one."""

    kind: Literal["model"] = "model"
    model_version: str

    @field_validator("model_version")
    @classmethod
    def _form(cls, version: str) -> str:
        if not _VERSION.fullmatch(version):
            raise ValueError("no model version; it is the 12 digits of the artefact's manifest")
        return version


class SetShares(_Command):
    """How many services have a model, and so share the job's budget; of every service, whenever one more has."""

    kind: Literal["shares"] = "shares"
    shares: int = Field(ge=1, le=1_000_000)


class SetBudget(_Command):
    """The false alerts a day that people can live with for this service; None takes the job's setting again."""

    kind: Literal["budget"] = "budget"
    per_day: float | None = Field(default=None, gt=0, le=10_000)


class Feedback(_Command):
    """What a person says of an anomaly, or of a line that was none.

    Attributes:
        label: `normal`: a false alarm, its patterns are told no more and may be learned; `suppressed`: not to be told, and not to be learned
            either; `anomalous`: rightly told; `missed`: a line that should have been told.
        anomaly_id: of the anomaly; None for `missed`.
        patterns: of the anomaly.
        until_ms: event time at which a suppression ends; None is for ever.
        message: the line, redacted; of `missed` the job finds the template by it.
        before: the line before it in its session, where the order makes it odd.
    """

    kind: Literal["feedback"] = "feedback"
    label: Literal["normal", "suppressed", "anomalous", "missed"]
    anomaly_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    patterns: tuple[Pattern, ...] = Field(default=(), max_length=64)
    until_ms: int | None = Field(default=None, ge=0)
    message: str = Field(default="", max_length=8_000)
    before: str = Field(default="", max_length=8_000)


class Undo(_Command):
    """Take back what another command did: a piece of feedback, by its id."""

    kind: Literal["undo"] = "undo"
    target: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")


class Release(_Command):
    """A deploy: templates first seen within `minutes` after it are one item."""

    kind: Literal["release"] = "release"
    label: Name
    ts_ms: int = Field(ge=0)
    minutes: int = Field(default=30, ge=1, le=1_440)


class EditTemplate(_Command):
    """Change the templates of a service by hand (models/template_edits.py).

    Attributes:
        action: `join` a template to another; `pin` one, so that its text stays; `keep` a word, so that it parts templates; `mask` what a
            regular expression matches in the masked text.
        template_id, into: of `join` and `pin`, as the topic `templates` has them.
        word: of `keep`.
        name, pattern: of `mask`.
    """

    kind: Literal["template"] = "template"
    action: Literal["join", "pin", "keep", "mask"]
    template_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{8}$")
    into: str | None = Field(default=None, pattern=r"^[0-9a-f]{8}$")
    word: str | None = Field(default=None, pattern=r"^\S{1,100}$")
    name: str | None = Field(default=None, pattern=r"^[a-z]{1,20}$")
    pattern: str | None = Field(default=None, min_length=1, max_length=300)

    @model_validator(mode="after")
    def _fields(self) -> Self:
        wanted = {
            "join": ("template_id", "into"),
            "pin": ("template_id",),
            "keep": ("word",),
            "mask": ("name", "pattern"),
        }
        given = [name for name in ("template_id", "into", "word", "name", "pattern") if getattr(self, name) is not None]
        if sorted(given) != sorted(wanted[self.action]):
            raise ValueError(f"{self.action} takes {' and '.join(wanted[self.action])}")
        return self


Command = SetMode | SetModel | SetShares | SetBudget | Feedback | Undo | Release | EditTemplate

_COMMANDS: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def read_command(value: bytes | None) -> Command:
    """The command in a message's value.

    Raises: RecordError if it is none; its detail is free of the message's bytes.

    >>> read_command(SetMode(command_id="a", version=1, service="cart", by="ada", mode="live").to_bytes()).mode
    'live'
    """
    if value is None or len(value) > MAX_BYTES:
        raise RecordError("no_command", "control", f"a command is a JSON object of at most {MAX_BYTES:,} bytes")
    try:
        return _COMMANDS.validate_python(orjson.loads(value))
    except orjson.JSONDecodeError as error:
        raise RecordError("no_command", "control", "not JSON") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in error.errors())
        raise RecordError("no_command", "control", faults[:500]) from error
