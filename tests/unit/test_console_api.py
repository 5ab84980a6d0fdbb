from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from console import access
from console.access import Role, User, Users
from console.commands import CommandError
from console.feed import Health
from console.lines import Line, Search, chosen
from console.parts import Console
from console.server import routes
from console.training import read_training
from models.control import Command, EditTemplate, Feedback, SetBudget, SetMode, Undo, read_command
from models.errors import SinkError
from tests.unit.console_cases import START_MS, console, incident, number, status, told

ADA = User("ada", Role.ADMIN, "cookie")


class Client:
    """Asks the routes without a network."""

    def __init__(self, parts: Console, host: str = "localhost") -> None:
        self.parts = parts
        self._app = routes(parts)
        self._host = host

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 1))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{self._host}") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
                if content is not None:
                    named.setdefault("content-type", "application/json")
                return await client.request(method, path, content=content, headers=named)

        return asyncio.run(ask())


@pytest.fixture
def sent() -> list[Command]:
    return []


@pytest.fixture
def local(sent: list[Command]) -> Client:
    parts = console(sent)
    for at in range(1, 6):
        parts.board.tell(told(at))
    return Client(parts)


@pytest.fixture
def guarded(sent: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Client, dict[str, str]]:
    monkeypatch.setattr(access, "_N", 16)
    users = Users(tmp_path / "users.json")
    tokens = {role: f"Bearer {users.add_token(role, role)}" for role in ("viewer", "triager", "admin")}
    users.add("ada", "triager", "correct horse")
    parts = console(sent, users_file=users.path)
    parts.board.tell(told(1))
    return Client(parts), tokens


def test_anomalies_come_in_pages_newest_first(local: Client) -> None:
    first = local("GET", "/api/anomalies?limit=3").json()
    assert [found["anomaly_id"] for found in first["anomalies"]] == [number(at) for at in (5, 4, 3)]
    assert first["total"] == 5
    second = local("GET", f"/api/anomalies?limit=3&before={first['before']}").json()
    assert [found["anomaly_id"] for found in second["anomalies"]] == [number(2), number(1)]
    assert second["before"] is None


def test_one_anomaly_has_its_record_revisions_and_marks(local: Client) -> None:
    local.parts.board.tell(told(1, revision=2, status="strengthened"))
    found = local("GET", f"/api/anomalies/{number(1)}").json()
    assert found["record"]["template"] == "payment <*> failed after <*> ms"
    assert [one["revision"] for one in found["revisions"]] == [0, 2]
    assert local("GET", "/api/anomalies/nothing").status_code == 404


def test_feedback_carries_the_patterns_and_who_and_why(local: Client, sent: list[Command]) -> None:
    answer = local("POST", "/api/feedback", {"label": "normal", "anomaly_id": number(1), "why": "a deploy"})
    assert answer.status_code == 202
    [command] = sent
    assert isinstance(command, Feedback)
    assert (command.by, command.why, command.service, command.label) == ("local", "a deploy", "cart", "normal")
    assert [(found.pattern, found.level) for found in command.patterns] == [("line:order:1a2b3c4d:44444444", 4.2)]
    assert read_command(command.to_bytes()) == command
    asked = f"/api/commands/{answer.json()['command_id']}"
    assert local("GET", asked).json()["state"] == "sent"
    local.parts.board.tell_status(status(commands={command.command_id: {"is_obeyed": True, "why": ""}}))
    assert local("GET", asked).json()["state"] == "obeyed"


def test_a_suppression_for_an_hour_ends_an_hour_after_the_newest_line_of_the_service(
    local: Client, sent: list[Command]
) -> None:
    local.parts.board.tell_status(status(last_ts=START_MS + 500_000))
    local("POST", "/api/feedback", {"label": "suppressed", "anomaly_id": number(1), "span": "1 h"})
    local("POST", "/api/feedback", {"label": "suppressed", "anomaly_id": number(1), "span": "ever"})
    assert [command.until_ms for command in sent] == [START_MS + 500_000 + 3_600_000, None]
    assert sent[0].version < sent[1].version


def test_a_missed_line_and_an_undo_are_sent(local: Client, sent: list[Command]) -> None:
    body = {"label": "missed", "service": "cart", "message": "disk full", "before": "writing"}
    assert local("POST", "/api/feedback", body).status_code == 202
    local.parts.board.tell_command(sent[0])
    assert local("POST", "/api/undo", {"command_id": sent[0].command_id}).status_code == 202
    assert isinstance(sent[1], Undo)
    assert (sent[1].target, sent[1].service) == (sent[0].command_id, "cart")
    local.parts.board.tell_command(sent[1])
    assert "taken back by local" in local("POST", "/api/undo", {"command_id": sent[0].command_id}).json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/feedback", {"label": "normal", "anomaly_id": "unknown"}),
        ("/api/feedback", {"label": "wrong", "anomaly_id": number(1)}),
        ("/api/feedback", {"label": "missed", "service": "cart", "message": " "}),
        ("/api/feedback", {"label": "missed", "message": "x"}),
        ("/api/feedback", {"label": "normal", "anomaly_id": number(1), "by": "somebody else"}),
        ("/api/undo", {"command_id": "unknown"}),
        ("/api/templates", {"service": "cart", "action": "join", "template_id": "0000000a"}),
        ("/api/templates", {"service": "cart", "action": "keep", "word": "two words"}),
        ("/api/templates/preview", {"service": "cart", "action": "mask", "name": "Flag", "pattern": "x"}),
        ("/api/score", {"service": "cart", "lines": []}),
        ("/api/score", {"service": "cart", "lines": ["x"] * 2_001}),
        ("/api/feedback", b"{"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_why_and_nothing_is_sent(
    local: Client, sent: list[Command], path: str, body: object
) -> None:
    answer = local("POST", path, body)
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert sent == []


def test_scoring_without_a_model_says_how_to_get_one(local: Client) -> None:
    answer = local("POST", "/api/score", {"service": "cart", "lines": ["x"]})
    assert answer.status_code == 404
    assert "Set store or model" in answer.json()["error"]


def test_roles_are_enforced_on_every_action(guarded: tuple[Client, dict[str, str]], sent: list[Command]) -> None:
    client, tokens = guarded
    body = {"label": "normal", "anomaly_id": number(1)}
    codes = {
        role: client("POST", "/api/feedback", body, authorization=token).status_code for role, token in tokens.items()
    }
    assert codes == {"viewer": 403, "triager": 202, "admin": 202}
    assert len(sent) == 2
    desk, viewer, triager = client.parts.desk, User("v", Role.VIEWER, "cookie"), User("t", Role.TRIAGER, "cookie")
    actions: list[tuple[Role, Callable[[User], object]]] = [
        (Role.TRIAGER, lambda user: desk.mark(user, number(1), "anomalous")),
        (Role.TRIAGER, lambda user: desk.missed(user, "cart", "x")),
        (Role.TRIAGER, lambda user: desk.take_back(user, "cart", "c1")),
        (Role.ADMIN, lambda user: desk.take_back(user, "cart", "c2")),
        (Role.ADMIN, lambda user: desk.edit_template(user, "cart", {"action": "keep", "word": "open"})),
        (Role.ADMIN, lambda user: desk.set_mode(user, "cart", "live")),
        (Role.ADMIN, lambda user: desk.set_model(user, "cart", "0123456789ab")),
        (Role.ADMIN, lambda user: desk.set_budget(user, "cart", 2.0)),
        (Role.ADMIN, lambda user: desk.release(user, "cart", "1.4", 5)),
    ]
    client.parts.board.tell_status(status(muted=[{"command_id": "c1"}], edits=[{"command_id": "c2"}]))
    for least, act in actions:
        for user in (viewer, triager):
            before = len(sent)
            if user.role < least:
                with pytest.raises(access.ForbiddenError):
                    act(user)
            else:
                act(user)
            assert len(sent) - before == (user.role >= least)
        act(ADA)


def test_what_is_in_force_no_more_is_not_taken_back(local: Client, sent: list[Command]) -> None:
    answer = local("POST", "/api/undo", {"command_id": "c1", "service": "cart"})
    assert answer.status_code == 422
    assert "taken back already" in answer.json()["error"]
    assert sent == []


def test_a_change_of_templates_is_looked_at_sent_and_listed(local: Client, sent: list[Command]) -> None:
    board = local.parts.board
    for name, text, into in (("0000000a", "paid <*>", None), ("0000000b", "paid <*> late", "0000000a")):
        entry = {"service": "cart", "template_id": name, "template": text, "slug": "x", "counts_as": into}
        board.tell_template(orjson.dumps(entry))
    body = {"service": "cart", "action": "join", "template_id": "0000000b", "into": "0000000a"}
    assert local("POST", "/api/templates/preview", body).json()["refusal"] == ""
    assert "no template" in local("POST", "/api/templates/preview", body | {"into": "0000000c"}).json()["refusal"]
    assert sent == []
    answer = local("POST", "/api/templates", body | {"why": "one event"})
    assert answer.status_code == 202
    [command] = sent
    assert isinstance(command, EditTemplate)
    assert (command.action, command.template_id, command.into, command.why) == (
        "join",
        "0000000b",
        "0000000a",
        "one event",
    )
    board.tell_status(status(edits=[{"command_id": command.command_id, "by": "local", "action": "join"}]))
    found = local("GET", "/api/templates?service=cart").json()
    assert [one["counts_as"] for one in found["templates"]] == [None, "0000000a"]
    assert [one["by"] for one in found["edits"]] == ["local"]
    undone = local("POST", "/api/undo", {"command_id": command.command_id, "service": "cart"})
    assert undone.status_code == 202
    assert isinstance(sent[1], Undo)
    board.tell_template(orjson.dumps({"service": "cart", "template_id": "0000000b", "template": "paid <*> late"}))
    assert board.counts_as["cart"] == {}


def test_a_space_is_part_of_an_expression_and_of_nothing_else(local: Client, sent: list[Command]) -> None:
    fields = {"action": "mask", "name": " flag ", "pattern": "to ", "word": " ", "into": ""}
    local.parts.desk.edit_template(ADA, "cart", fields)
    [command] = sent
    assert isinstance(command, EditTemplate)
    assert (command.name, command.pattern, command.word) == ("flag", "to ", None)


def test_incidents_of_the_topic_take_the_place_of_groups(local: Client) -> None:
    assert [group["count"] for group in local("GET", "/api/incidents").json()] == [5]
    local.parts.board.tell_incident(incident("i1", anomaly_ids=[number(1), number(2)], kinds=[]))
    [found] = local("GET", "/api/incidents").json()
    assert (found["incident_id"], found["state"]) == ("i1", "open")
    one = local("GET", "/api/incidents/i1").json()
    assert [row["anomaly_id"] for row in one["anomalies"]] == [number(2), number(1)]
    assert local("GET", "/api/anomalies?incident=i1").json()["total"] == 2
    assert local("GET", "/api/incidents/i2").status_code == 404


def test_a_line_is_known_as_missed_until_that_is_taken_back_or_refused_or_forgotten(
    local: Client, sent: list[Command]
) -> None:
    parts = local.parts
    parts.desk.missed(ADA, "cart", "disk full")
    [command] = sent
    assert parts.missed("cart", "disk full") is None  # the topic has the say
    parts.board.tell_command(command)
    mark = parts.missed("cart", "disk full")
    assert mark is not None
    assert mark.given.by == "ada"
    assert parts.missed("pay", "disk full") is None
    later = command.version + 60_000
    parts.board.tell_status(status(at_ms=later, wanted=[]))
    assert parts.missed("cart", "disk full") is None
    parts.board.tell_status(status(at_ms=later + 1, wanted=[{"command_id": command.command_id}]))
    assert parts.missed("cart", "disk full") is not None
    parts.board.tell_status(status(at_ms=later + 2, commands={command.command_id: {"is_obeyed": False, "why": "x"}}))
    assert parts.missed("cart", "disk full") is None
    parts.board.tell_command(
        Undo(command_id="u", version=9, service="cart", by="eve", target=command.command_id),
    )
    assert parts.board.marks.missed("cart", "disk full") is None


def test_nothing_but_the_login_is_reached_without_one(guarded: tuple[Client, dict[str, str]]) -> None:
    client, _ = guarded
    for path in (
        "/api/anomalies",
        "/api/export.csv",
        "/api/services",
        "/openapi.json",
        "/api/me",
        "/",
        "/services",
        "/_nicegui_ws/x",
    ):
        assert client("GET", path).status_code == 401, path
    there = client("GET", "/services?service=a%26b", accept="text/html")
    assert (there.status_code, there.headers["location"]) == (303, "/login?next=/services%3Fservice%3Da%2526b")
    for path in ("/login", "/healthz", "/readyz", "/static/console.css", "/static/login.js"):
        assert client("GET", path).status_code == 200, path
    assert client("GET", "/static/../settings.py").status_code in (401, 404)


def test_a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(guarded: tuple[Client, dict[str, str]]) -> None:
    client, _ = guarded
    assert client("POST", "/login", {"name": "ada", "password": "wrong"}).status_code == 401
    answer = client("POST", "/login", {"name": "ada", "password": "correct horse"})
    cookie = answer.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    session = cookie.partition(";")[0]
    assert client("GET", "/api/me", cookie=session).json() == {"name": "ada", "role": "triager", "how": "cookie"}
    client("POST", "/api/logout", {}, cookie=session)
    assert client("GET", "/api/me", cookie=session).status_code == 401


def test_many_wrong_passwords_are_braked(guarded: tuple[Client, dict[str, str]]) -> None:
    client, _ = guarded
    codes = [client("POST", "/login", {"name": "ada", "password": "guess"}).status_code for _ in range(9)]
    assert codes == [401] * 8 + [429]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "http://localhost"}, 202),
    ],
)
def test_no_other_site_can_act_for_a_user(
    local: Client, sent: list[Command], headers: dict[str, str], code: int
) -> None:
    answer = local("POST", "/api/feedback", {"label": "normal", "anomaly_id": number(1)}, **headers)
    assert answer.status_code == code
    assert len(sent) == (code == 202)


def test_a_name_that_was_made_to_point_here_is_refused() -> None:
    assert Client(console(), "evil.example")("GET", "/api/anomalies").status_code == 421
    assert (
        Client(console(public_url="https://ours.example"), "ours.example")("GET", "/api/anomalies").status_code == 200
    )


def test_a_body_that_is_too_long_is_refused(sent: list[Command]) -> None:
    client = Client(console(sent, max_body_bytes=2_000))
    assert client("POST", "/api/score", {"service": "cart", "lines": ["x" * 3_000]}).status_code == 413


def test_every_answer_has_the_security_headers(local: Client) -> None:
    for path in ("/api/anomalies", "/login", "/nothing"):
        headers = local("GET", path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_the_export_holds_what_the_filter_admits_and_no_formula(local: Client) -> None:
    local.parts.board.tell(told(9, service="pay", message="=cmd|' /C calc'!A0"))
    answer = local("GET", "/api/export.csv?service=pay")
    assert answer.headers["content-type"].startswith("text/csv")
    head, row = csv.reader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert dict(zip(head, row, strict=True))["message"] == "'=cmd|' /C calc'!A0"


def test_services_tell_of_their_state_and_precision(local: Client, sent: list[Command]) -> None:
    local.parts.board.tell_status(status())
    local.parts.board.tell_command(local.parts.desk.mark(ADA, number(1), "anomalous"))
    [found] = local("GET", "/api/services").json()
    assert (found["service"], found["status"]["mode"], found["told_a_day"]) == ("cart", "live", 5)
    assert found["precision"]["deeplog"] == {"right": 1, "wrong": 0, "ratio": 1.0}


def test_ready_is_only_a_console_that_hears_its_broker(local: Client) -> None:
    assert local("GET", "/readyz").status_code == 200

    class Away:
        health = Health("away", 1, "The Kafka broker does not answer.")

    local.parts.feed = Away()
    assert local("GET", "/readyz").status_code == 503
    assert local("GET", "/healthz").status_code == 200


def test_a_command_that_does_not_reach_the_topic_says_so() -> None:
    parts = console()

    def refuse(command: Command) -> None:
        raise SinkError("The broker does not answer.")

    parts.desk._send = refuse
    parts.board.tell(told(1))
    answer = Client(parts)("POST", "/api/feedback", {"label": "normal", "anomaly_id": number(1)})
    assert (answer.status_code, answer.json()) == (503, {"error": "The broker does not answer."})


def test_a_command_without_an_answer_asks_whether_the_job_runs(sent: list[Command]) -> None:
    parts = console(sent)
    times = iter([1_000, 1_000, 5_000, 20_000])
    parts.desk._now_ms = lambda: next(times)
    command = parts.desk.set_mode(ADA, "cart", "live", "why not")
    assert isinstance(command, SetMode)
    assert parts.desk.answer(command.command_id).state == "sent"
    assert parts.desk.answer(command.command_id).state == "waiting"


def test_commands_that_the_control_topic_would_refuse_are_not_sent(sent: list[Command]) -> None:
    desk = console(sent).desk
    for act in (
        lambda: desk.set_mode(ADA, "cart", "asleep"),
        lambda: desk.set_model(ADA, "cart", "../../etc"),
        lambda: desk.set_budget(ADA, "cart", 0.0),
        lambda: desk.release(ADA, "cart", "", 5),
        lambda: desk.set_mode(ADA, "", "live"),
    ):
        with pytest.raises(CommandError, match="cannot be asked"):
            act()
    assert sent == []
    assert isinstance(desk.set_budget(ADA, "cart", None), SetBudget)


def test_versions_of_commands_grow_even_if_the_clock_stands(sent: list[Command]) -> None:
    desk = console(sent).desk
    desk._now_ms = lambda: 7
    for _ in range(3):
        desk.set_mode(ADA, "cart", "live")
    assert [command.version for command in sent] == [7, 8, 9]


def test_a_search_leaves_out_flagged_lines_unless_they_are_asked_for() -> None:
    board = console().board
    board.tell(told(1))
    flagged = Line(START_MS + 1_000, "cart", "ERROR", "", "req-1", "payment p-1 failed after 3012 ms", None)
    on_topic = Line(5, "cart", "INFO", "", "req-1", "other text", ("logs", 0, 1, 0))
    plain = Line(START_MS, "cart", "INFO", "", "req-1", "payment accepted", None)
    lines = [plain, flagged, on_topic]
    assert [line.message for line in chosen(lines, Search("payment"), board)] == ["payment accepted"]
    everything = chosen(lines, Search(session="req-1", unflagged_only=False), board)
    assert [line.anomaly_id for line in everything] == [number(1), "", number(1)]


@pytest.mark.parametrize("data", [b"", b"[]", b'"x"', b"{"])
def test_what_is_no_training_is_left_out(data: bytes) -> None:
    assert read_training(data) is None


def test_a_training_is_read_with_what_it_has() -> None:
    found = read_training(
        orjson.dumps(
            {
                "state": "published",
                "loss": [3, "x", 1.5],
                "gate": [{"criterion": "alarms", "figure": 0.1, "bound": 0.2, "is_passed": True}, 7],
                "lines": "many",
            }
        )
    )
    assert (found.state, found.loss, found.lines) == ("published", (3.0, 1.5), None)
    assert [(gate.criterion, gate.figure, gate.bound, gate.is_passed) for gate in found.gates] == [
        ("alarms", 0.1, 0.2, True)
    ]


def test_the_openapi_document_names_the_routes(local: Client) -> None:
    paths: dict[str, Any] = local("GET", "/openapi.json").json()["paths"]
    assert {
        "/api/score",
        "/api/anomalies",
        "/api/anomalies/{anomaly_id}",
        "/api/services",
        "/api/feedback",
        "/api/undo",
    } <= set(paths)
