"""Routes files, what waits on a route, and what its messages say."""

from __future__ import annotations

import tomllib
from typing import Any

import orjson
import pytest

from models.alerts import messages
from models.alerts.example import example_notice
from models.alerts.outbox import DIGEST_MS, Entry, Notice, Outbox, read_incident
from models.alerts.routes import Links, Routes, WebRoute
from models.errors import RecordError, SettingsError

T0 = 1_767_225_600_000
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000

GOOD = """
[links]
console = "https://console.example/i/{incident_id}?s={service}&from={from_ms}"
[[route]]
name = "on-call"
kind = "slack"
host = "hooks.example.com"
url_env = "SLACK_URL"
severity = "error"
services = ["cart*", "pay-*"]
[[route]]
name = "mail"
kind = "email"
host = "smtp.example.com"
user = "driftwood"
password_env = "SMTP_PASSWORD"
sender = "driftwood@example.com"
to = ["ada@example.com"]
"""


def of(text: str) -> Routes:
    return Routes.of(tomllib.loads(text))


def incident(name: str = "a", number: int = 1, kind: str = "opened", **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = dict(example_notice(T0).incidents[0])
    message = {"number": number, "kind": kind, "why": "It is new.", "at_ms": fields.pop("at_ms", T0)}
    return made | {"incident_id": name, "revision": number * 10, "services": ["cart"], "message": message} | fields


def outbox(**settings: Any) -> Outbox:
    return Outbox(WebRoute(name="r", kind="webhook", url="http://127.0.0.1/x", **settings))


def told(box: Outbox, now_ms: int) -> list[list[str]]:
    """Deliver what is due; the incidents of each notice."""
    found = []
    while (notice := box.due(now_ms)) is not None:
        found.append([each["incident_id"] for each in notice.incidents])
        box.sent(notice, now_ms)
    return found


# ---- the file


def test_a_good_file_is_read_and_its_secrets_come_from_the_environment() -> None:
    routes = of(GOOD)
    assert [route.name for route in routes.routes] == ["on-call", "mail"]
    routes.check_secrets({"SLACK_URL": "https://hooks.example.com/T/secret", "SMTP_PASSWORD": "pw"})
    with pytest.raises(SettingsError, match=r"SLACK_URL is not set[\s\S]*SMTP_PASSWORD is not set"):
        routes.check_secrets({})


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example.com/T",
        "file:///etc/passwd",
        "gopher://hooks.example.com/",
        "https://me:pw@hooks.example.com/",
    ],
)
def test_an_address_in_the_environment_leads_to_the_named_host_and_by_http_only(url: str) -> None:
    with pytest.raises(SettingsError, match="SLACK_URL") as raised:
        of(GOOD).check_secrets({"SLACK_URL": url, "SMTP_PASSWORD": "pw"})
    assert url not in str(raised.value), "it may be a secret"


def test_every_fault_of_a_file_is_named_at_once_and_no_value_is_shown() -> None:
    text = """
    extra = 1
    [links]
    console = "javascript:alert(1)"
    [[route]]
    name = "a"
    kind = "webhook"
    url = "ftp://host/s3cret"
    [[route]]
    name = "b"
    kind = "pigeon"
    [[route]]
    name = "c"
    kind = "slack"
    url_env = "X"
    password = "s3cret"
    [[route]]
    name = "d"
    kind = "email"
    host = "h"
    sender = "x@y\\r\\nBcc: z@y"
    to = []
    tls = "none"
    """
    with pytest.raises(SettingsError) as raised:
        of(text)
    said = str(raised.value)
    for fault in (
        "extra is unknown",
        "links: console",
        "route a",
        "http://",
        "route b",
        "route c",
        "password",
        "route d",
        "sender",
        "to",
    ):
        assert fault in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('kind = "webhook"\nurl_env = "X"', "needs host"),
        ('kind = "webhook"\nurl = "http://h/"\nhost = "other"', "not at the host"),
        ('kind = "webhook"\nurl = "http://h/"\nuser = "u"', "password_env"),
        (
            'kind = "email"\nhost = "h"\nsender = "a@b"\nto = ["c@d"]\ntls = "none"\nuser = "u"\npassword_env = "P"',
            "in the clear",
        ),
        ('kind = "webhook"\nurl = "http://h/"\nburst = 1', "burst"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(row: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        of(f'[[route]]\nname = "r"\n{row}\n')


def test_a_file_without_routes_or_with_one_name_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no \[\[route\]\]"):
        of("")
    row = '[[route]]\nname = "r"\nkind = "webhook"\nurl = "http://h/"\n'
    with pytest.raises(SettingsError, match="there twice"):
        of(row + row)


def test_a_route_is_for_its_services_from_its_severity_on() -> None:
    route = of(GOOD).routes[0]
    assert route.matches(incident(severity="critical", services=["billing", "cart-eu"]))
    assert not route.matches(incident(severity="warning", services=["cart"]))
    assert not route.matches(incident(severity="critical", services=["billing"]))


# ---- what waits


def test_one_message_is_told_once_however_often_its_incident_is_published() -> None:
    box = outbox()
    for revision in range(5):
        box.take(incident(revision=revision), T0)
    assert told(box, T0) == [["a"]]
    box.take(incident(revision=6), T0)
    assert told(box, T0) == []
    again = Outbox(box.route, dict(box.told))  # as after a restart
    again.take(incident(revision=7), T0)
    assert told(again, T0) == []
    again.take(incident(number=2, kind="escalated"), T0)
    assert told(again, T0) == [["a"]]


def test_nobody_hears_that_something_is_over_of_which_nobody_heard() -> None:
    box = outbox(severity="error")
    box.take(incident(severity="warning"), T0)
    box.take(incident(number=2, kind="resolved", severity="critical"), T0)
    assert told(box, T0) == []
    box.take(incident("b", severity="error"), T0)
    assert told(box, T0) == [["b"]]
    box.take(incident("b", number=2, kind="merged", severity="warning"), T0)
    assert told(box, T0) == [["b"]], "who was told hears the end, however harmless it has become"
    box.take(incident("b", number=3, kind="resolved"), T0)
    assert told(box, T0) == []


def test_an_incident_that_came_and_went_while_the_receiver_was_away_is_told_as_over() -> None:
    box = outbox()
    box.take(incident(), T0)
    box.failed(T0, 0.5)
    box.take(incident(number=2, kind="resolved", at_ms=T0 + MINUTE), T0 + MINUTE)
    assert told(box, T0 + 2 * MINUTE) == [["a"]]
    assert box.told["a"].is_over
    old = outbox()
    old.take(incident(), T0)
    old.take(incident(number=2, kind="resolved"), T0 + 2 * HOUR)
    assert old.waiting == {}, "not when it is long over"


def test_a_route_that_wants_no_escalations_still_hears_first_of_an_incident_that_escalated_meanwhile() -> None:
    box = outbox(tell=("opened", "resolved"))
    box.take(incident(), T0)
    box.take(incident(number=2, kind="escalated"), T0)
    assert told(box, T0) == [["a"]]
    box.take(incident(number=3, kind="escalated"), T0)
    assert told(box, T0) == []
    box.take(incident(number=4, kind="resolved"), T0)
    assert told(box, T0) == [["a"]]


def test_incidents_in_shadow_mode_and_ones_not_yet_told_stay_where_they_are() -> None:
    box = outbox()
    box.take(incident(mode="shadow"), T0)
    box.take(incident("b", number=0, kind=""), T0)
    assert told(box, T0) == []


def test_the_worst_goes_first_and_what_is_over_the_rate_is_one_digest_a_minute_later() -> None:
    box = outbox(burst=4, per_hour=60)
    for n in range(20):
        box.take(incident(f"w{n:02}", severity="warning"), T0)
    box.take(incident("worst", severity="critical"), T0)
    assert told(box, T0) == [["worst"], ["w00"], ["w01"]]
    assert told(box, T0 + DIGEST_MS - 1) == []
    (digest,) = told(box, T0 + DIGEST_MS)[:1]
    assert digest == ["w02"], "a token has come back by then"
    for n in range(20, 30):
        box.take(incident(f"w{n:02}", severity="warning"), T0 + DIGEST_MS)
    slow = outbox(burst=2, per_hour=1)
    for n in range(500):
        slow.take(incident(f"w{n:03}"), T0)
    notices = [notice for minute in range(60) for notice in told(slow, T0 + minute * MINUTE)]
    assert [len(notice) for notice in notices] == [1, 499]


def test_no_rate_is_exceeded_however_many_incidents_there_are() -> None:
    box = outbox(burst=5, per_hour=6)
    sent = 0
    for second in range(0, 7_200, 10):
        box.take(incident(f"i{second}"), T0 + second * SECOND)
        sent += len(told(box, T0 + second * SECOND))
    assert sent <= 5 + 2 * 6
    assert len(box.told) + len(box.waiting) == 720, "nothing is lost"


def test_waits_after_failures_grow_and_end_with_a_delivery() -> None:
    box = outbox()
    box.take(incident(), T0)
    waits = [box.failed(T0, 0.99) for _ in range(12)]
    assert waits == sorted(waits)
    assert 50 < waits[-1] <= 60
    assert box.failed(T0, 0.0, retry_after_s=300) == 300
    assert box.due(T0 + 299 * SECOND) is None
    notice = box.due(T0 + 301 * SECOND)
    assert notice is not None
    box.sent(notice, T0 + 301 * SECOND)
    assert box.failed(T0, 0.99) == pytest.approx(waits[0])


def test_entries_of_the_ledger_survive_as_bytes_and_keys_name_messages() -> None:
    box = outbox()
    box.take(incident(), T0)
    notice = box.due(T0)
    assert notice is not None
    (entry,) = box.sent(notice, T0).values()
    assert Entry.from_bytes(entry.to_bytes()) == entry
    assert Notice((incident(number=1),)).key == notice.key != Notice((incident(number=2),)).key


@pytest.mark.parametrize("bad", [b"", b"[1]", b"null", b"{}", b"\xff", orjson.dumps(incident() | {"worst": {}})])
def test_a_record_that_is_no_incident_is_refused_with_a_reason(bad: bytes) -> None:
    with pytest.raises(RecordError, match="no_incident"):
        read_incident(bad)
    assert read_incident(orjson.dumps(incident()))["incident_id"] == "a"


# ---- the text


def test_a_message_says_what_where_why_and_what_to_do_next() -> None:
    made = incident(severity="critical", services=["a", "b"], requires_immediate_action=True)
    made["cause"] = made["cause"] | {"anomaly_id": "1" * 16, "service": "database", "message": "no space left"}
    links = Links(console="https://c.example/{incident_id}")
    text = messages.text(made, links)
    rows = dict(text.rows)
    assert "[critical, new]" in text.title
    assert rows["Where"] == "a, b"
    assert "no space left" in rows["It probably began with"]
    assert "Act now" in rows["Next"]
    assert "database" in rows["Next"]
    assert text.links["console"] == "https://c.example/a"
    over = messages.text(made | {"message": made["message"] | {"kind": "resolved"}}, links)
    assert dict(over.rows)["Next"].startswith("Nothing")


def test_a_service_name_cannot_lead_a_link_elsewhere() -> None:
    links = of(GOOD).links
    made = incident()
    made["worst"] = made["worst"] | {"service": "x&y=/../<>|\n@evil"}
    link = links.of(made)["console"]
    assert link.startswith("https://console.example/i/a?s=x%26y%3D%2F..%2F%3C%3E%7C%0A%40evil&from=")


@pytest.mark.parametrize("bad", ["\x1b[2J", "\u202e", "\u200b", "\r\n", "\x00", "\u2028", "\u00ad", "\U000e0041"])
def test_no_character_that_is_obeyed_is_left_in_a_text(bad: str) -> None:
    assert bad not in messages.plain(f"a{bad}b")
    assert bad not in messages.text(incident(title=bad, services=[f"s{bad}"]), Links()).body.replace("\n", "")


def test_a_digest_of_hundreds_is_short_and_names_how_many() -> None:
    many = [incident(f"i{n}") for n in range(300)]
    assert len(messages.slack(many, Links())) < 20_000
    assert b"300 incidents" in messages.slack(many, Links())
    assert len(messages.webhook(many, Links())) < 1_000_000
