"""`driftwood feedback`: tells the running job something, by one command on the control topic."""

from __future__ import annotations

import getpass
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from models.errors import SettingsError

if TYPE_CHECKING:
    from flink_jobs.settings import KafkaAddress
    from models.control import Command

LABELS: Final = ("normal", "suppressed", "anomalous", "missed")
KINDS: Final = (*LABELS, "undo", "mode", "model", "budget", "release", "template")
#: What `template` can do, and the options each takes.
EDITS: Final[Mapping[str, tuple[str, ...]]] = {
    "join": ("template_id", "into"),
    "pin": ("template_id",),
    "keep": ("word",),
    "mask": ("mask",),
}
_RECORD: Final = ("service", "anomaly_id", "patterns", "ts")  # what is needed of an anomaly's record
_POLL_MS: Final = 100
_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def command(
    what: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to say.")],
    value: Annotated[
        str | None,
        typer.Argument(
            help="mode: learning, shadow, live or auto; model: a version; budget: false alerts a day, or `default`; undo: a command id; "
            "release: its name; missed: the line; template: join, pin, keep or mask."
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The control topic: kafka://host:9092/control. Default: the setting control.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Whom it is about; `*` is every service.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="File with the anomaly's JSON record, `-` for standard input: service, id and patterns come from it."
        ),
    ] = None,
    anomaly_id: Annotated[str | None, typer.Option(help="The anomaly, where there is no record.")] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(help="One of its patterns as PATTERN=LEVEL; repeatable, where there is no record."),
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option(
            "--for", help="suppressed: for how long, from the anomaly's time on: 30m, 12h, 7d. Default: for ever."
        ),
    ] = None,
    before: Annotated[
        str, typer.Option(help="missed: the line before it in its session, where the order makes it odd.")
    ] = "",
    minutes: Annotated[
        int, typer.Option(min=1, max=1_440, help="release: for how long new templates belong to it.")
    ] = 30,
    template_id: Annotated[
        str | None, typer.Option(help="template join, pin: the template, as the topic `templates` has it.")
    ] = None,
    into: Annotated[str | None, typer.Option(help="template join: the one that it counts as from now on.")] = None,
    word: Annotated[
        str | None, typer.Option(help="template keep: texts that differ in it never share a template.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=REGEX", help="template mask: what matches in the masked text becomes <NAME>; Rust's syntax."
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who says so. Default: the user's name.")] = None,
    why: Annotated[str, typer.Option(help="For what reason.")] = "",
    status: Annotated[str, typer.Option(help="The topic in which the job answers, at the same broker.")] = "status",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the job's answer.")] = False,
    wait_s: Annotated[float, typer.Option(min=0.1, help="How long to wait for it.")] = 10.0,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML) of the job.")] = None,
) -> None:
    """Says what an anomaly was, what was missed, or how a service is to be judged; the job obeys within a second.

    Prints the command that was sent. Exit status 1: the job refused it, or did not answer in time.
    """
    import orjson

    from flink_jobs.settings import KafkaAddress, load
    from flink_jobs.trainer.control_topic import ControlTopic, say

    settings = load(config, control=control)
    if settings.control is None:
        raise SettingsError("No control topic is given: add --control kafka://host:9092/control.")
    fields = fields_of(
        what,
        value,
        record=_read(record),
        service=service,
        anomaly_id=anomaly_id,
        patterns=pattern or [],
        hold=hold,
        before=before,
        minutes=minutes,
        now_ms=time.time_ns() // 1_000_000,
        edit={"template_id": template_id, "into": into, "word": word, "mask": mask},
    )
    made = build(say(**fields, by=by or getpass.getuser(), why=why))
    address = KafkaAddress.control(settings.control)
    secrets = {name: secret.get_secret_value() for name, secret in settings.kafka_properties.items()}
    with ControlTopic(address, secrets) as topic:
        answers = None if no_wait else Answers(address, secrets, status)
        try:
            topic.send(made)
            typer.echo(orjson.dumps(orjson.loads(made.to_bytes()), option=orjson.OPT_INDENT_2))
            if answers is None:
                return
            answer = answers.wait(made, wait_s)
        finally:
            if answers is not None:
                answers.close()
    if answer is None:
        typer.echo(
            f"the job has not answered in {wait_s:g} s; the command stays on the topic, and is obeyed when the job reads it",
            err=True,
        )
        raise typer.Exit(1)
    is_obeyed, words = answer
    typer.echo(f"{'obeyed' if is_obeyed else 'refused'}: {words or 'the job gave no reason'}", err=not is_obeyed)
    if not is_obeyed:
        raise typer.Exit(1)


def fields_of(
    what: str,
    value: str | None,
    *,
    record: Mapping[str, Any] | None,
    service: str | None,
    anomaly_id: str | None,
    patterns: list[str],
    hold: str | None,
    before: str,
    minutes: int,
    now_ms: int,
    edit: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The fields of the command in JSON form, without who, when and why; `edit` has the options of `template`.

    Raises: SettingsError if something is missing, or does not belong to it.
    """
    if what not in KINDS:
        raise SettingsError(f"{what!r} cannot be said; choose from {', '.join(KINDS)}.")
    service = service or (str(record["service"]) if record is not None else None)
    if service is None:
        raise SettingsError("Whom is it about? Add --service NAME, or --record FILE with the anomaly.")
    given = {name: one for name, one in (edit or {}).items() if one is not None}
    if given and what != "template":
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(f"{options} is of `driftwood feedback template`; {what} takes no such thing.")
    if what in LABELS:
        return {"service": service, **_feedback(what, value, record, anomaly_id, patterns, hold, before, now_ms)}
    if not value:
        raise SettingsError(f"`driftwood feedback {what}` needs a value after it; see --help.")
    if what == "mode":
        return {"kind": "mode", "service": service, "mode": value}
    if what == "model":
        return {"kind": "model", "service": service, "model_version": value}
    if what == "template":
        return {"kind": "template", "service": service, **_edit(value, given)}
    if what == "undo":
        return {"kind": "undo", "service": service, "target": value}
    if what == "budget":
        try:
            per_day = None if value == "default" else float(value)
        except ValueError as error:
            raise SettingsError(f"{value!r} is no number of false alerts a day; give one, or `default`.") from error
        return {"kind": "budget", "service": service, "per_day": per_day}
    return {"kind": "release", "service": service, "label": value, "ts_ms": now_ms, "minutes": minutes}


def _edit(action: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a change of templates."""
    if action not in EDITS:
        raise SettingsError(f"A template cannot be changed by {action!r}; choose {', '.join(EDITS)}.")
    if set(given) != set(EDITS[action]):
        options = " and ".join(f"--{name.replace('_', '-')}" for name in EDITS[action])
        raise SettingsError(
            f"`driftwood feedback template {action}` takes {options}, and no other option of templates."
        )
    if action != "mask":
        return {"action": action, **given}
    name, mark, pattern = given["mask"].partition("=")
    if not (name and mark and pattern):
        raise SettingsError(f"{given['mask']!r} is no NAME=REGEX; write for example --mask 'flag=--[a-z]+'.")
    return {"action": action, "name": name, "pattern": pattern}


def _feedback(
    label: str,
    value: str | None,
    record: Mapping[str, Any] | None,
    anomaly_id: str | None,
    patterns: list[str],
    hold: str | None,
    before: str,
    now_ms: int,
) -> dict[str, Any]:
    fields: dict[str, Any] = {"kind": "feedback", "label": label}
    if label == "missed":
        if not value:
            raise SettingsError("Which line was missed? Give it after `missed`, in quotes.")
        return {**fields, "message": value, "before": before}
    if record is not None:
        fields |= {"anomaly_id": str(record["anomaly_id"]), "patterns": record["patterns"]}
    else:
        if anomaly_id is None or not patterns:
            raise SettingsError(
                "Which anomaly? Add --record FILE with its record, or --anomaly-id and each of its patterns as --pattern PATTERN=LEVEL."
            )
        fields |= {"anomaly_id": anomaly_id, "patterns": [_pattern(one) for one in patterns]}
    if hold is not None:
        if label != "suppressed":
            raise SettingsError(f"--for says how long something is suppressed; {label} holds until it is undone.")
        since_ms = now_ms if record is None else int(record["ts"])
        fields["until_ms"] = since_ms + _span_ms(hold)
    return fields


def build(fields: dict[str, Any]) -> Command:
    """The command of some fields.

    Raises: SettingsError if they do not make one.
    """
    import orjson

    from models.control import read_command
    from models.errors import RecordError

    try:
        return read_command(orjson.dumps(fields))
    except RecordError as error:
        raise SettingsError(f"This is no command the job would take: {error.detail}.") from error


class Answers:
    """The job's answers: opened before the command is sent, so that none is missed.

    Args:
        address: of the control topic, whose broker has the status topic too.
        secrets: Kafka client properties.
        topic: its name.

    Raises: SettingsError if there is no such topic.
    """

    def __init__(self, address: KafkaAddress, secrets: Mapping[str, str], topic: str) -> None:
        from kafka import KafkaConsumer, TopicPartition
        from kafka.errors import KafkaError

        from flink_jobs.feed import client_options

        options = client_options({**secrets, **address.properties})
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=address.servers.split(","),
                enable_auto_commit=False,
                isolation_level="read_uncommitted",  # an answer need not wait for the job's next checkpoint
                **{name: value for name, value in options.items() if name in KafkaConsumer.DEFAULT_CONFIG},
            )
            numbers = self._consumer.partitions_for_topic(topic)
        except (KafkaError, OSError) as error:
            raise SettingsError(
                f"No Kafka broker answers at {address.servers} ({type(error).__name__}: {error})."
            ) from error
        if not numbers:
            self._consumer.close()
            raise SettingsError(
                f"There is no topic {topic!r} at {address.servers}, in which the job would answer: is a job with a control topic running? "
                "--status names another topic, --no-wait does without."
            )
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            self._consumer.position(partition)  # looked up now, not at the first poll

    def wait(self, command: Command, wait_s: float) -> tuple[bool, str] | None:
        """Whether the command was obeyed, and why (not); None if no answer came in time. A command to every service is answered by the first."""
        import orjson

        from models.control import EVERY

        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            for records in self._consumer.poll(timeout_ms=_POLL_MS).values():
                for found in (orjson.loads(record.value) for record in records if record.value):
                    answer = found.get("commands", {}).get(command.command_id)
                    if answer is not None and command.service in (EVERY, found["service"]):
                        return bool(answer["is_obeyed"]), str(answer["why"])
        return None

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


def _read(record: str | None) -> dict[str, Any] | None:
    """The anomaly of a file, or of standard input.

    Raises: SettingsError if it is none.
    """
    import orjson

    if record is None:
        return None
    try:
        data = sys.stdin.buffer.read() if record == "-" else Path(record).read_bytes()
        found = orjson.loads(data)
        missing = [name for name in _RECORD if name not in found]
    except OSError as error:
        raise SettingsError(f"{record} cannot be read: {error.strerror}.") from error
    except (orjson.JSONDecodeError, TypeError) as error:
        raise SettingsError(f"{record} holds no JSON record; give one line of the anomalies topic.") from error
    if missing or not isinstance(found, dict):
        raise SettingsError(f"{record} is no anomaly record: it has no {', '.join(missing)}.")
    return found


def _pattern(text: str) -> dict[str, Any]:
    name, mark, level = text.rpartition("=")
    try:
        return {"pattern": name, "level": float(level)}
    except ValueError as error:
        raise SettingsError(f"{text!r} is no PATTERN=LEVEL{'' if mark else ': the level is missing'}.") from error


def _span_ms(text: str) -> int:
    """A time such as 30m.

    >>> [_span_ms(text) for text in ("30m", "12h", "7d")]
    [1800000, 43200000, 604800000]
    """
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if not found:
        raise SettingsError(f"{text!r} is no time; write 30m, 12h or 7d.")
    return int(found[1]) * _UNITS_MS[found[2]]
