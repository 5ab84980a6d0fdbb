"""One notice to one receiver, one try; what to think of the answer is said in words."""

from __future__ import annotations

import dataclasses
import smtplib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

import urllib3

from flink_jobs.notifier.guard import ForbiddenAddressError, GuardedSmtp, GuardedSmtpTls, guarded_pool
from models.alerts import messages
from models.alerts.outbox import Entry, Notice
from models.alerts.routes import Links, MailRoute, Route, WebRoute
from models.delivery import is_passing, retry_after_s
from udfs.clients.http import authorization

TIMEOUT_S = 10.0
#: Answers that are about the message and not about the route: to send it again would bring the same answer.
_MESSAGE_REFUSED = (400, 413, 422)
_ALERTS = "/api/v2/alerts"


class Outcome(Enum):
    """How a try ended."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # this message, for good
    FAILED = "failed"  # the same may go through later


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """An outcome, why, and for how long the receiver asked to be left alone."""

    outcome: Outcome
    detail: str = ""
    retry_after_s: float | None = None


class Sender(Protocol):
    """What delivers to one receiver."""

    def send(self, notice: Notice, told: Mapping[str, Entry]) -> Result:
        """Try once."""


def sender(route: Route, links: Links, environment: Mapping[str, str]) -> Sender:
    """The sender of a route; its secrets are taken from the environment."""
    if isinstance(route, MailRoute):
        return MailSender(route, links, environment)
    return WebSender(route, links, environment)


class WebSender:
    """Posts to a webhook, a Slack-compatible receiver or Alertmanager; follows no redirect."""

    def __init__(self, route: WebRoute, links: Links, environment: Mapping[str, str]) -> None:
        url = route.url if route.url_env is None else environment[route.url_env]
        assert url is not None
        self._url = url.rstrip("/") + _ALERTS if route.kind == "alertmanager" and _ALERTS not in url else url
        self._route, self._links = route, links
        self._pool = guarded_pool(route.ca_file)
        self._headers = authorization(
            route.user,
            environment[route.password_env] if route.password_env else "",
            bearer=environment[route.token_env] if route.token_env else "",
        )

    def send(self, notice: Notice, told: Mapping[str, Entry]) -> Result:
        """Post once."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "driftwood-notifier",
            "Idempotency-Key": f"{self._route.name}-{notice.key}",  # for receivers that know one message from another
        }
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=self._body(notice, told),
                headers=headers | self._headers,
                timeout=urllib3.Timeout(total=TIMEOUT_S),
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            return Result(Outcome.FAILED, f"no answer ({_reason(error)})")
        return self._judge(response)

    def _judge(self, response: urllib3.BaseHTTPResponse) -> Result:
        status = response.status
        said = messages.plain(response.data[:400].decode(errors="replace"), 200)
        if 200 <= status < 300:
            return Result(Outcome.DELIVERED)
        if status in _MESSAGE_REFUSED:
            return Result(Outcome.REFUSED, f"{status}: {said}")
        if is_passing(status):
            after_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
            return Result(Outcome.FAILED, f"{status}: {said}", after_s)
        if 300 <= status < 400:
            return Result(
                Outcome.FAILED, f"{status}, a redirect, which is not followed: give the final address in the route"
            )
        return Result(Outcome.FAILED, f"{status}: {said}; check the route's address and the secret that it names")

    def _body(self, notice: Notice, told: Mapping[str, Entry]) -> bytes:
        if self._route.kind == "slack":
            return messages.slack(notice.incidents, self._links)
        if self._route.kind == "alertmanager":
            before = {name: entry.labels for name, entry in told.items() if not entry.is_over}
            return messages.alertmanager(notice.incidents, before, self._links)
        return messages.webhook(notice.incidents, self._links)


class MailSender:
    """Sends by SMTP, a connection a mail."""

    def __init__(self, route: MailRoute, links: Links, environment: Mapping[str, str]) -> None:
        self._route, self._links = route, links
        self._password = environment[route.password_env] if route.password_env else ""

    def send(self, notice: Notice, told: Mapping[str, Entry]) -> Result:
        """Send once."""
        route = self._route
        mail = messages.email(notice.incidents, route, self._links, f"{route.name}-{notice.key}")
        try:
            with self._connected() as server:
                if route.tls == "starttls":
                    server.starttls(context=self._context())
                if route.user:
                    server.login(route.user, self._password)
                refused = server.sendmail(route.sender, list(route.to), mail)
        except smtplib.SMTPDataError as error:
            outcome = Outcome.REFUSED if error.smtp_code >= 500 else Outcome.FAILED
            return Result(outcome, f"{error.smtp_code}: {_said(error.smtp_error)}")
        except smtplib.SMTPNotSupportedError:
            return Result(
                Outcome.FAILED, f"the server does not speak what the route wants (tls = {route.tls!r}, login)"
            )
        except smtplib.SMTPResponseException as error:
            return Result(
                Outcome.FAILED, f"{error.smtp_code}: {_said(error.smtp_error)}; check the route's login and sender"
            )
        except smtplib.SMTPRecipientsRefused as error:
            return Result(Outcome.FAILED, f"no recipient was taken ({', '.join(error.recipients)}); check `to`")
        except (smtplib.SMTPException, OSError) as error:
            return Result(Outcome.FAILED, f"no answer ({_reason(error)})")
        if refused:
            return Result(Outcome.DELIVERED, f"but not to {', '.join(refused)}; check `to`")
        return Result(Outcome.DELIVERED)

    def _connected(self) -> smtplib.SMTP:
        route = self._route
        if route.tls == "tls":
            return GuardedSmtpTls(route.host, route.port, timeout=TIMEOUT_S, context=self._context())
        return GuardedSmtp(route.host, route.port, timeout=TIMEOUT_S)

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._route.ca_file or None)


def _said(text: bytes | str) -> str:
    return messages.plain(text.decode(errors="replace") if isinstance(text, bytes) else text, 200)


def _reason(error: BaseException) -> str:
    """What went wrong, without the address, whose path may be a secret."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ForbiddenAddressError):
            return str(inner)
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__
