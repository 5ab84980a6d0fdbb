"""Incidents on a real broker, told to real local receivers: a webhook, a chat, Alertmanager's API and a mail server."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from flink_jobs.notifier import senders
from flink_jobs.notifier.guard import is_forbidden
from flink_jobs.notifier.senders import Outcome, sender
from flink_jobs.runtime.broker import Broker
from models.alerts.correlator import CorrelatorParams
from models.alerts.example import example_notice
from models.alerts.routes import Routes
from tests.unit.test_alerts_correlator import SECOND, T0, anomaly

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[31m<!channel> *boom* <script>x</script> \u202e`id`\r\nBcc: all@example.com"


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as the test wants."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []  # the next ones; then 200
        self.gate = threading.Event()  # answers wait for it
        self.gate.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                receiver.requests.append((self.path, dict(self.headers), orjson.loads(body)))
                receiver.gate.wait(9)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"answer\x1b[31m")

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """As much of SMTP as a client needs to hand over a mail."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.refusal = ""
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender_, recipients = "", []
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            word = line.upper()
            if word.startswith("MAIL FROM:"):
                sender_ = line[10:].split()[0]
            elif word.startswith("RCPT TO:"):
                recipients.append(line[8:])
            elif word == "DATA":
                writer.write(b"354 go on\r\n")
                data = (await reader.readuntil(b"\r\n.\r\n"))[:-5]
                if self.refusal:
                    writer.write(self.refusal.encode() + b"\r\n")
                    continue
                self.mails.append((sender_, recipients, data))
            writer.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")
            if word == "QUIT":
                break
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    made = MailServer()
    yield made
    made.close()


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)


def hostile_notice() -> Any:
    notice = example_notice(T0)
    incident: dict[str, Any] = notice.incidents[0]
    for example in (incident["worst"], incident["cause"]):
        example |= {"message": HOSTILE, "service": HOSTILE, "explanation": HOSTILE}
    incident["services"] = [HOSTILE]
    return notice


# ---- one receiver of each kind


def routes(*rows: dict[str, Any], **links: str) -> Routes:
    return Routes.of({"route": list(rows), "links": links})


def deliver(row: dict[str, Any], notice: Any = None, told: Any = None, **environment: str) -> senders.Result:
    read = routes(row, console="https://console.example/i/{incident_id}?s={service}")
    read.check_secrets(environment)
    return sender(read.routes[0], read.links, environment).send(notice or example_notice(T0), told or {})


def test_a_webhook_gets_the_incident_whole_with_the_token_and_a_key_that_names_the_message(receiver: Receiver) -> None:
    row = {"name": "hook", "kind": "webhook", "url": receiver.url, "token_env": "TOKEN"}
    first, again = deliver(row, hostile_notice(), TOKEN="s3cret"), deliver(row, hostile_notice(), TOKEN="s3cret")
    assert (first.outcome, again.outcome) == (Outcome.DELIVERED, Outcome.DELIVERED)
    (_, headers, body), (_, repeated, _) = receiver.requests
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["Idempotency-Key"] == repeated["Idempotency-Key"]
    assert body["incidents"][0]["incident_id"] in body["incidents"][0]["links"]["console"]
    flat = json.dumps(body, ensure_ascii=False)
    assert "\x1b" not in flat
    assert "\u202e" not in flat
    assert "\\r" not in flat


def test_a_chat_gets_log_text_only_where_it_is_no_markup(receiver: Receiver) -> None:
    row = {"name": "chat", "kind": "slack", "url_env": "URL", "host": "127.0.0.1"}
    assert deliver(row, hostile_notice(), URL=receiver.url).outcome is Outcome.DELIVERED
    (body,) = receiver.bodies
    texts = [body["text"], *(b["text"]["text"] for b in body["blocks"] if b["text"]["type"] == "mrkdwn")]
    for text in texts:
        outside = "".join(text.split("`")[::2])  # what stands in no code span
        assert "*boom*" not in outside
        assert "!channel" not in outside
        assert "<!channel>" not in text
        assert "<script>" not in text
    assert all(len(block["text"]["text"]) <= 3_000 for block in body["blocks"])
    assert body["blocks"][0]["text"]["type"] == "plain_text"
    assert "<https://console.example/i/" in texts[-1]


def test_alertmanager_hears_that_an_alert_whose_severity_changed_is_over_under_its_old_name(receiver: Receiver) -> None:
    row = {"name": "am", "kind": "alertmanager", "url": receiver.url.removesuffix("/hook")}
    notice = example_notice(T0)
    (incident,) = notice.incidents
    first = deliver(row, notice)
    assert first.outcome is Outcome.DELIVERED
    from models.alerts.outbox import Outbox

    outbox = Outbox(routes(row).routes[0])
    outbox.sent(notice, T0)
    incident["severity"], incident["message"] = "critical", incident["message"] | {"number": 2, "kind": "escalated"}
    assert deliver(row, notice, outbox.told).outcome is Outcome.DELIVERED
    outbox.sent(notice, T0)
    incident["message"] |= {"number": 3, "kind": "resolved"}
    assert deliver(row, notice, outbox.told).outcome is Outcome.DELIVERED
    assert {path for path, _, _ in receiver.requests} == {"/api/v2/alerts"}
    one, two, three = receiver.bodies
    at = "2026-01-01T00:00:00.000Z"
    assert [(a["labels"]["severity"], a["endsAt"] > at) for a in one] == [("warning", True)]
    assert [(a["labels"]["severity"], a["endsAt"] > at) for a in two] == [("warning", False), ("critical", True)]
    assert [(a["labels"]["severity"], a["endsAt"] > at) for a in three] == [("critical", False)]
    assert {a["startsAt"] for a in [*one, *two, *three]} == {at}


def test_a_mail_is_plain_text_with_no_header_from_a_log(mail_server: MailServer) -> None:
    row = {
        "name": "mail", "kind": "email", "host": "127.0.0.1", "port": mail_server.port, "tls": "none",
        "sender": "driftwood@example.com", "to": ["ada@example.com", "bob@example.com"],
    }  # fmt: skip
    assert deliver(row, hostile_notice()).outcome is Outcome.DELIVERED
    ((sent_by, recipients, data),) = mail_server.mails
    assert (sent_by, len(recipients)) == ("<driftwood@example.com>", 2)
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert mail["Bcc"] is None
    assert mail["To"] == "ada@example.com, bob@example.com"
    assert mail.get_content_type() == "text/plain"
    assert not mail.is_multipart()
    assert "\n" not in mail["Subject"]
    assert "Bcc: all@example.com" in mail.get_content(), "as text in a line, where it does nothing"
    assert "\x1b" not in mail.get_content()
    mail_server.refusal = "554 spam"
    assert deliver(row).outcome is Outcome.REFUSED
    mail_server.refusal = "451 later"
    assert deliver(row).outcome is Outcome.FAILED
    assert deliver(row | {"tls": "starttls"}).outcome is Outcome.FAILED, "never in the clear where TLS is wanted"
    assert deliver(row | {"port": 1}).outcome is Outcome.FAILED


def test_redirects_are_not_followed_and_answers_are_sorted_into_later_and_never(receiver: Receiver) -> None:
    row = {"name": "hook", "kind": "webhook", "url": receiver.url}
    elsewhere = Receiver()
    try:
        receiver.answers = [(302, {"Location": elsewhere.url}), (503, {"Retry-After": "7"}), (400, {}), (401, {})]
        results = [deliver(row) for _ in range(4)]
        assert elsewhere.requests == []
    finally:
        elsewhere.close()
    assert [r.outcome.value for r in results] == ["failed", "failed", "refused", "failed"]
    assert "redirect" in results[0].detail
    assert results[1].retry_after_s == 7.0
    assert "\x1b" not in results[2].detail
    assert "check" in results[3].detail


def test_a_name_that_leads_to_a_forbidden_address_gets_nothing(
    receiver: Receiver, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no link-local receiver here: let the local one be forbidden.
    monkeypatch.setattr("flink_jobs.notifier.guard.is_forbidden", lambda address: address == "127.0.0.1")
    result = deliver({"name": "hook", "kind": "webhook", "url": receiver.url})
    assert result.outcome is Outcome.FAILED
    assert "metadata" in result.detail
    assert receiver.requests == []
    row = {
        "name": "mail", "kind": "email", "host": "127.0.0.1", "port": mail_server.port, "tls": "none",
        "sender": "driftwood@example.com", "to": ["ada@example.com"],
    }  # fmt: skip
    assert "metadata" in deliver(row).detail
    assert mail_server.mails == []


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "0.0.0.0", "fe80::1%eth0"]
)
def test_addresses_that_give_out_credentials_are_forbidden(address: str) -> None:
    assert is_forbidden(address)


# ---- the program


class Incidents:
    """A correlator whose upserts go to a topic."""

    def __init__(self, broker: Broker, topic: str) -> None:
        from kafka import KafkaProducer

        self.correlator = CorrelatorParams().build()
        self.topic, self.now_ms = topic, int(time.time() * 1000)
        self.producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")

    def take(self, *anomalies: bytes, seconds: int = 0) -> None:
        upserts = self.correlator.step(anomalies, self.now_ms)
        for _ in range(seconds):
            self.now_ms += SECOND
            upserts += self.correlator.tick(self.now_ms)
        for name, record in upserts:
            self.producer.send(self.topic, key=name.encode(), value=record)
        self.producer.flush()


class Notifier:
    """The command in a process of its own."""

    def __init__(self, broker: Broker, topic: str, file: Path, ledger: str) -> None:
        self.command = [
            sys.executable, "-m", "flink_jobs.cli", "notifier", "--incidents", f"kafka://{broker.bootstrap}/{topic}",
            "--routes", str(file), "--group", f"g-{topic}", "--ledger", ledger,
        ]  # fmt: skip
        self.log = file.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


@pytest.fixture
def notify(kafka_broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Notifier]]:
    made: list[Notifier] = []

    def start(topic: str, text: str) -> Notifier:
        file = tmp_path / f"routes-{len(made)}.toml"
        file.write_text(text)
        made.append(Notifier(kafka_broker, topic, file, f"told-{topic}"))
        return made[-1]

    yield start
    for notifier in made:
        notifier.kill()


def test_a_restart_in_the_middle_pages_once(
    kafka_broker: Broker, new_topic: Callable[..., str], notify: Callable[..., Notifier], receiver: Receiver
) -> None:
    topic = new_topic("incidents", cleanup_policy="compact")
    incidents = Incidents(kafka_broker, topic)
    receiver.answers = [(503, {})]  # the first try fails, and the program dies before the next
    incidents.take(anomaly(1, severity="critical"), seconds=12)
    notifier = notify(topic, f'[[route]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\n')
    until(lambda: len(receiver.requests) == 1, 60)
    notifier.kill()
    notifier.start()
    until(lambda: len(receiver.requests) == 2, 60)
    # Killed again right after it was told; counts go on, and the message stays the same.
    until(lambda: "told 1 incidents" in notifier.log.read_text())
    notifier.kill()
    incidents.take(*(anomaly(n) for n in range(2, 60)), seconds=5)
    notifier.start()
    incidents.take(anomaly(1, revision=2, status="strengthened", severity="critical"), seconds=20 * 60)
    until(lambda: len(receiver.requests) == 3, 60)
    time.sleep(1.5)
    kinds = [body["incidents"][0]["message"]["kind"] for body in receiver.bodies]
    assert kinds == ["opened", "opened", "resolved"]
    keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.requests]
    assert keys[0] == keys[1] != keys[2]
    assert receiver.bodies[2]["incidents"][0]["count"] == 59
    notifier.stop()
    assert notifier.process.returncode == 0, notifier.log.read_text()


def test_a_broker_that_goes_away_between_delivery_and_ledger_makes_nobody_hear_twice(
    kafka_broker: Broker, new_topic: Callable[..., str], notify: Callable[..., Notifier], receiver: Receiver
) -> None:
    topic = new_topic("incidents", cleanup_policy="compact")
    incidents = Incidents(kafka_broker, topic)
    incidents.producer.send(topic, key=b"x", value=b"no incident")
    receiver.gate.clear()
    incidents.take(anomaly(1), seconds=12)
    notifier = notify(topic, f'[[route]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\n')
    until(lambda: len(receiver.requests) == 1, 60)
    kafka_broker.kill()
    receiver.gate.set()
    time.sleep(3)
    kafka_broker.start()
    incidents.take(seconds=16 * 60)
    until(lambda: len(receiver.requests) == 2, 120)
    assert [body["incidents"][0]["message"]["kind"] for body in receiver.bodies] == ["opened", "resolved"]
    assert notifier.process.poll() is None
    assert "is no incident" in notifier.log.read_text()


def test_routes_do_not_wait_for_each_other_and_each_gets_what_it_is_for(
    kafka_broker: Broker,
    new_topic: Callable[..., str],
    notify: Callable[..., Notifier],
    receiver: Receiver,
    mail_server: MailServer,
) -> None:
    topic = new_topic("incidents", cleanup_policy="compact")
    incidents = Incidents(kafka_broker, topic)
    dead = Receiver()
    dead.answers = [(503, {})] * 1_000
    notifier = notify(
        topic,
        f"""
        [[route]]
        name = "dead"
        kind = "webhook"
        url = "{dead.url}"
        [[route]]
        name = "cart-only"
        kind = "webhook"
        url = "{receiver.url}"
        services = ["cart*"]
        severity = "error"
        [[route]]
        name = "mail"
        kind = "email"
        host = "127.0.0.1"
        port = {mail_server.port}
        tls = "none"
        sender = "driftwood@example.com"
        to = ["ada@example.com"]
        burst = 2
        """,
    )
    minute = 60 * SECOND
    incidents.take(
        anomaly(1, "cart-1", severity="error"),
        anomaly(2, "cart-2", "slow <num>", severity="warning", ts=T0 + 5 * minute),
        anomaly(3, "billing", severity="critical", ts=T0 + 10 * minute),
        anomaly(4, "cart-9", mode="shadow", severity="critical", ts=T0 + 15 * minute),
        seconds=12,
    )
    try:
        until(lambda: len(dead.requests) >= 2 and len(receiver.requests) == 1 and len(mail_server.mails) == 1, 60)
    finally:
        dead.close()
    assert receiver.bodies[0]["incidents"][0]["services"] == ["cart-1"]
    assert "next try" in notifier.log.read_text()
    assert len(mail_server.mails) == 1, "two more wait for the digest, a minute later"


def test_the_test_command_says_what_came_of_it_and_needs_no_broker(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(f'[[route]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\n')

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flink_jobs.cli", "notifier", "--routes", str(file), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    done = run("--test", "hook")
    assert (done.returncode, "delivered the test message" in done.stdout) == (0, True), done.stderr
    assert "test" in receiver.bodies[0]["title"]
    receiver.answers = [(404, {})]
    done = run("--test", "hook")
    assert (done.returncode, "404" in done.stderr) == (2, True)
    assert "there are: hook" in run("--test", "none").stderr
    assert "--incidents is missing" in run().stderr
