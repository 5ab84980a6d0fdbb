"""`driftwood feedback` against a real broker: what it sends, and how it waits for the job's answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import orjson
import pytest
from typer.testing import CliRunner, Result

from flink_jobs.cli import app
from models.control import EditTemplate, SetMode, read_command

if TYPE_CHECKING:
    from flink_jobs.runtime.broker import Broker

Send = Callable[[str, Iterable[bytes]], None]
Read = Callable[..., list[bytes]]


@pytest.fixture
def say(kafka_broker: Broker, new_topic: Callable[..., str]) -> Callable[..., tuple[Result, str, str]]:
    """Runs `driftwood feedback` on topics of its own; gives its result and the names of the two topics."""
    control, status = new_topic("control"), new_topic("status")

    def run(*words: str) -> tuple[Result, str, str]:
        where = ("--control", f"kafka://{kafka_broker.bootstrap}/{control}", "--status", status)
        return CliRunner().invoke(app, ["feedback", *words, *where]), control, status

    return run


def answering(send: Send, read: Read, control: str, status: str, *, is_obeyed: bool) -> threading.Thread:
    """A job that answers the first command that comes."""

    def answer() -> None:
        (value,) = read(control, at_least=1)
        answers = {read_command(value).command_id: {"is_obeyed": is_obeyed, "why": "as asked"}}
        send(status, [b'{"service": "cart"}', orjson.dumps({"service": "cart", "commands": answers})])

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(("is_obeyed", "status_code"), [(True, 0), (False, 1)])
def test_a_command_is_sent_and_the_jobs_answer_told(say, send: Send, read: Read, is_obeyed: bool, status_code: int):
    _, control, status = say("mode", "live", "--service", "cart", "--no-wait", "--help")
    job = answering(send, read, control, status, is_obeyed=is_obeyed)
    result, *_ = say("mode", "live", "--service", "cart", "--by", "ada", "--why", "a test", "--wait-s", "30")
    job.join()
    assert result.exit_code == status_code, result.output
    assert ("obeyed: as asked" if is_obeyed else "refused: as asked") in result.output
    (command,) = [read_command(value) for value in read(control)]
    assert isinstance(command, SetMode)
    assert (command.service, command.mode, command.by, command.why) == ("cart", "live", "ada", "a test")


def test_a_change_of_templates_is_sent(say, read: Read):
    mask = ("template", "mask", "--mask", "flag=--[a-z]+", "--service", "cart", "--no-wait")
    result, control, _ = say(*mask)
    assert result.exit_code == 0, result.output
    wrong, *_ = say("template", "join", "--into", "0000000a", "--service", "cart", "--no-wait")
    assert "--template-id and --into" in str(wrong.exception)
    (command,) = [read_command(value) for value in read(control)]
    assert isinstance(command, EditTemplate)
    assert (command.action, command.name, command.pattern) == ("mask", "flag", "--[a-z]+")


def test_without_an_answer_it_says_so_and_the_command_stays(say, read: Read):
    result, control, _ = say("undo", "c1", "--service", "cart", "--wait-s", "0.5")
    assert result.exit_code == 1
    assert "has not answered in 0.5 s" in result.output
    quiet, *_ = say("budget", "2", "--service", "cart", "--no-wait")
    assert quiet.exit_code == 0
    assert [read_command(value).kind for value in read(control)] == ["undo", "budget"]
