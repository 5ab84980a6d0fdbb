"""What the sinks share: retry plans, dead letters, and addresses read from a URL. Pure: no clock, no network."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from models.errors import RecordError, SettingsError

#: A dead letter must fit Kafka's default message limit (1 MiB) after JSON escapes.
MAX_LETTER_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class RetryParams:
    """How long a sink may be refused before the job restarts from its checkpoint.

    Units: seconds. `deadline_s` bounds one call of the operator, whatever number of requests it makes.
    """

    base_s: float = 0.5  # Grafana Alloy's loki.write starts here too
    cap_s: float = 10.0
    max_tries: int = 20
    deadline_s: float = 60.0
    timeout_s: float = 10.0  # one request
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be above 0 (it is {getattr(self, name)})"
            for name in ("base_s", "cap_s", "max_tries", "deadline_s", "timeout_s")
            if getattr(self, name) <= 0
        ]
        if wrong:
            raise SettingsError(f"Retry settings: {'; '.join(wrong)}.")

    def check(self, checkpoint_timeout_s: float) -> None:
        """Passes when a sink that is away cannot hold a checkpoint beyond its timeout.

        Raises:
            SettingsError: the deadline is not below the checkpoint timeout.
        """
        if self.deadline_s + self.timeout_s >= checkpoint_timeout_s:
            raise SettingsError(
                f"A sink may retry for deadline_s + timeout_s = {self.deadline_s + self.timeout_s:g} s, but a checkpoint "
                f"times out after {checkpoint_timeout_s:g} s. Lower deadline_s or raise execution.checkpointing.timeout."
            )

    def wait_s(self, tries: int, jitter: float, elapsed_s: float, retry_after_s: float | None = None) -> float | None:
        """The wait before the next try; None when there is none left.

        Exponential, with the upper half drawn at random so that many workers do not come back together.

        Args:
            tries: tries made so far, at least 1.
            jitter: a draw from [0, 1).
            elapsed_s: since the delivery began.
            retry_after_s: what the server asked for; a longer wait than ours is honoured.

        >>> RetryParams().wait_s(3, 0.5, 0.0)
        1.5
        >>> RetryParams(deadline_s=5).wait_s(1, 0.0, 0.0, retry_after_s=30) is None
        True
        """
        if tries >= self.max_tries:
            return None
        full = min(self.cap_s, self.base_s * 2.0 ** min(tries - 1, 30))
        wait = max(full * (0.5 + 0.5 * jitter), retry_after_s or 0.0)
        return wait if elapsed_s + wait < self.deadline_s else None


def is_passing(status: int) -> bool:
    """True for an answer that a later try may better: no answer (0), 408, 429 and every 5xx.

    >>> [is_passing(status) for status in (0, 204, 400, 429, 503)]
    [True, False, False, True, True]
    """
    return status in (0, 408, 429) or status >= 500


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds asked for by a Retry-After header, given in seconds or as a date; None when absent or unreadable.

    Source: RFC 9110, section 10.2.3.

    >>> retry_after_s("7", datetime(2024, 1, 1, tzinfo=UTC))
    7.0
    """
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(
        0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).astimezone(UTC).timestamp() - now.timestamp()
    )


def anomalies(blob: bytes) -> tuple[list[tuple[dict[str, Any], bytes]], list[bytes]]:
    """The anomalies of one JSON-lines element, each with its own bytes, and a dead letter for each line that is none.

    >>> anomalies(b'{"anomaly_id":"a"}')[0]
    [({'anomaly_id': 'a'}, b'{"anomaly_id":"a"}')]
    """
    found, letters = [], []
    for line in blob.split(b"\n"):
        if not line.strip():
            continue
        try:
            found.append((_anomaly(line), line))
        except RecordError as error:
            letters.append(dead_letter(error.reason, error.stage, error.detail, {}, line))
    return found, letters


def _anomaly(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError("not_json", "deliver", f"the line is no JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("anomaly_id"), str):
        raise RecordError("not_an_anomaly", "deliver", "the line is no JSON object with an anomaly_id")
    return value


def dead_letter(reason: str, stage: str, detail: str, source: Mapping[str, Any], body: bytes) -> bytes:
    """The JSON envelope of one refused entry; its fields are those of a rejected record.

    `value` holds the entry, cut at 256 KiB; `digest` is the sha256 of the whole.

    >>> letter = orjson.loads(dead_letter("too_old", "loki", "refused", {"topic": "logs", "offset": 7}, b"x"))
    >>> letter["reason"], letter["topic"], letter["offset"], letter["partition"], letter["value"]
    ('too_old', 'logs', 7, None, 'x')
    """
    return orjson.dumps(
        {
            "reason": reason,
            "stage": stage,
            "detail": detail,
            "topic": source.get("topic"),
            "partition": source.get("partition"),
            "offset": source.get("offset"),
            "index": source.get("index"),
            "kafka_ts": source.get("kafka_ts"),
            "digest": hashlib.sha256(body).hexdigest(),
            # A character cut in two at the end becomes one mark; so does a byte that is no UTF-8.
            "value": body[:MAX_LETTER_BYTES].decode(errors="replace"),
        }
    )


def event_time_ms(value: Any) -> int | None:
    """Event time in ms since the epoch, from ms or an ISO 8601 text; None when it is neither.

    >>> event_time_ms("2024-01-01T00:00:00.5Z"), event_time_ms(1704067200500), event_time_ms(None)
    (1704067200500, 1704067200500, None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def iso_ms(time_ms: int) -> str:
    """The time as RFC 3339 with milliseconds, UTC.

    >>> iso_ms(1704067200500)
    '2024-01-01T00:00:00.500Z'
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SinkUrl:
    """One sink's address, and its options taken one by one; `finish` names everything that was wrong at once.

    Args:
        url: `scheme://user:password@host:port/path?option=value`.
        ports: default port by accepted scheme.
    """

    def __init__(self, url: str, ports: Mapping[str, int]) -> None:
        self.wrong: list[str] = []
        parts = urlsplit(url)
        self.scheme = parts.scheme
        self.host, self.port, self.path = "", 0, unquote(parts.path)
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        if parts.scheme not in ports:
            self.wrong.append(f"the scheme must be one of {', '.join(ports)}")
        try:
            self.host, self.port = parts.hostname or "", parts.port or ports.get(parts.scheme, 0)
        except ValueError as error:
            self.wrong.append(str(error))
        if not self.host:
            self.wrong.append("the host is missing")
        self._masked = f"{parts.scheme}://{self.host}{f':{self.port}' if self.port else ''}{parts.path}"
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        self._options = dict(pairs)
        self.wrong += [f"?{name} is given twice" for name in sorted({n for n, _ in pairs}) if _count(pairs, name) > 1]
        if parts.fragment:
            self.wrong.append("a '#' in a password or option must be written %23")

    @property
    def is_tls(self) -> bool:
        """True for the schemes that speak TLS."""
        return self.scheme.endswith("+https") or self.scheme == "rediss"

    def text(self, name: str, default: str = "") -> str:
        """The option's text."""
        return self._options.pop(name, default)

    def prefixed(self, prefix: str) -> tuple[tuple[str, str], ...]:
        """Every option whose name starts with the prefix, without it, sorted by name."""
        names = sorted(name for name in self._options if name.startswith(prefix))
        return tuple((name[len(prefix) :], self._options.pop(name)) for name in names)

    def flag(self, name: str, default: bool) -> bool:
        """The option as true or false."""
        text = self.text(name, "true" if default else "false").lower()
        if text not in ("true", "false"):
            self.wrong.append(f"?{name} must be true or false")
        return text == "true"

    def number(self, name: str, default: float, low: float = 1, high: float = 1e12) -> float:
        """The option as a number between low and high."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            self.wrong.append(f"?{name} must be a number from {low:g} to {high:g}")
            return default
        return value

    def retry(self) -> RetryParams:
        """The retry plan's options: `deadline_s`, `timeout_s`, `max_tries`."""
        plain = RetryParams()
        return RetryParams(
            deadline_s=self.number("deadline_s", plain.deadline_s, 0.1, 3600),
            timeout_s=self.number("timeout_s", plain.timeout_s, 0.1, 600),
            max_tries=int(self.number("max_tries", plain.max_tries, 1, 1000)),
        )

    def finish(self) -> None:
        """Passes when all options were known and right.

        Raises:
            SettingsError: one message with every fault; the address in it is free of secrets.
        """
        self.wrong += [f"?{name} is no option of this address" for name in sorted(self._options)]
        if self.wrong:
            raise SettingsError(f"The address {self._masked} cannot be used: {'; '.join(self.wrong)}.")


def _count(pairs: list[tuple[str, str]], name: str) -> int:
    return sum(1 for known, _ in pairs if known == name)
