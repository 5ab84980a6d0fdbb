"""The addresses of sources and sinks: `kafka://…`, `file:…` and the sinks' own, read and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from models.delivery import event_time_ms
from models.elastic import ElasticParams
from models.errors import SettingsError
from models.loki import LokiParams
from models.tail import COMPRESSED
from models.training_buffer import RedisParams

T = TypeVar("T")

#: What a sink writes: topics of Kafka, paths of files.
RESULTS: Final = ("anomalies", "rejects", "templates", "verdicts", "status", "incidents")
#: A start before 1990 is a time in seconds; one after the year 9999 is a slip too.
_FIRST_MS, _LAST_MS = 631_152_000_000, 253_402_300_799_999

#: An option whose name holds one of these is a secret.
_SECRETS = ("password", "secret", "jaas", "token", "credential", "api_key")

_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Strict(BaseModel):
    """A group of settings in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def masked(url: str) -> str:
    """An address as it may be shown: passwords and tokens are left out.

    >>> masked("loki://me:pw@host:3100/?tenant=shop&token=abc"), masked("file:app.log?follow=1")
    ('loki://me:***@host:3100/?tenant=shop&token=***', 'file:app.log?follow=1')
    """
    head, mark, query = url.partition("?")
    head = re.sub(r"(?<=//)([^/@]*?):[^/]*@", r"\1:***@", head)
    pairs = [pair.partition("=") for pair in query.split("&")]
    shown = [
        f"{name}=***" if any(part in name.lower() for part in _SECRETS) else name + sign + value
        for name, sign, value in pairs
    ]
    return head + mark + "&".join(shown)


def _options(url: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    twice = sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1})
    if twice:
        raise SettingsError(f"{masked(url)!r}: {', '.join(twice)} is given twice")
    return dict(pairs)


def _refuse_unknown(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SettingsError(f"{what} has no option {', '.join(unknown)}; there are: {', '.join(sorted(known))}")


class KafkaAddress(Strict):
    """A place in Kafka: `kafka://host:9092[,host:9092]/topic[,topic]?name=value…`.

    Attributes:
        servers: bootstrap servers.
        topics: topic names; empty where `pattern` is set.
        pattern: a regular expression over topic names; new topics and partitions are found while the job runs.
        options: the rest of the query: `start` (earliest|latest|group, an ISO 8601 time or ms since 1970), `until` (latest) and `group` for
            sources; `rejects`, `templates`, `verdicts`, `status`, `incidents` (topic names, empty for off) for sinks; anything with a dot goes
            to the client as a Kafka property.
    """

    servers: str
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    options: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> KafkaAddress:
        """The address in a URL.

        Raises:
            SettingsError: if a part is missing.

        >>> KafkaAddress.parse("kafka://localhost:9092/logs").topics
        ('logs',)
        """
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise SettingsError(
                f"{url.split('@')[-1]!r}: user and password do not go into a kafka:// address, where process lists show them; "
                "set sasl.* in kafka_properties (file or DRIFTWOOD_KAFKA_PROPERTIES)."
            )
        options = _options(url, parts.query)
        pattern = options.pop("pattern", None)
        topics = tuple(topic for topic in unquote(parts.path).strip("/").split(",") if topic)
        if not parts.netloc or not (topics or pattern):
            raise SettingsError(
                f"{masked(url)!r} is no Kafka address; write kafka://host:9092/topic, kafka://host:9092/a,b or kafka://host:9092/?pattern=logs-.*"
            )
        if topics and pattern:
            raise SettingsError(f"{masked(url)!r} names topics and a pattern; give one of them")
        return cls(servers=parts.netloc, topics=topics, pattern=pattern, options=options)

    @classmethod
    def source(cls, url: str) -> KafkaAddress:
        """The address of a source.

        Raises:
            SettingsError: it is no address, or an option is unknown or wrong.
        """
        address = cls.parse(url)
        _refuse_unknown(
            f"the Kafka source {masked(url)!r}",
            address.options.keys() - address.properties,
            ("start", "until", "group"),
        )
        if address.options.get("until", "latest") != "latest":
            raise SettingsError(
                f"until={address.options['until']} in {masked(url)!r}: the only end of a source is until=latest"
            )
        address.startup()
        return address

    @classmethod
    def sink(cls, url: str) -> KafkaAddress:
        """The address of a sink.

        Raises:
            SettingsError: it is no address of one topic, or an option is unknown.
        """
        address = cls.parse(url)
        if len(address.topics) != 1:
            raise SettingsError(f"the Kafka sink {masked(url)!r} needs exactly one topic, for the anomalies")
        _refuse_unknown(f"the Kafka sink {masked(url)!r}", address.options.keys() - address.properties, RESULTS[1:])
        written = [topic for topic in map(address.place, RESULTS) if topic]
        if len(set(written)) < len(written):
            raise SettingsError(
                f"the Kafka sink {masked(url)!r} would write two kinds of result to one topic: {', '.join(written)}"
            )
        return address

    @classmethod
    def control(cls, url: str) -> KafkaAddress:
        """The address of the control topic, read from its beginning: what was said holds for a job that starts without state too.

        Raises:
            SettingsError: it is no address of one topic, or an option is unknown.
        """
        address = cls.source(url)
        if len(address.topics) != 1:
            raise SettingsError(f"the control topic {masked(url)!r} must be exactly one topic")
        return address.model_copy(update={"options": {"start": "earliest", **address.options}})

    @property
    def properties(self) -> dict[str, str]:
        """The options that are Kafka client properties."""
        return {name: value for name, value in self.options.items() if "." in name}

    def startup(self) -> dict[str, str]:
        """The connector's options for where a source starts.

        Raises:
            SettingsError: `start` is no such place.

        >>> KafkaAddress.parse("kafka://h/t?start=2024-01-31T10:00Z").startup()
        {'scan.startup.mode': 'timestamp', 'scan.startup.timestamp-millis': '1706695200000'}
        """
        start = self.options.get("start", "group")
        modes = {"earliest": "earliest-offset", "latest": "latest-offset", "group": "group-offsets"}
        if start in modes:
            return {"scan.startup.mode": modes[start]}
        # A plus in a query is a blank: 10:00+02:00 arrives as 10:00 02:00.
        time_ms = int(start) if start.isdecimal() else event_time_ms(re.sub(r" (\d\d:?\d\d)$", r"+\1", start))
        if time_ms is None or not _FIRST_MS <= time_ms <= _LAST_MS:
            raise SettingsError(
                f"start={start} is unknown; write start=earliest, latest or group, a time such as start=2024-01-31T10:00:00Z "
                "(without a zone it is UTC), or milliseconds since 1970 such as start=1706695200000"
            )
        return {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": str(time_ms)}

    def place(self, kind: str) -> str | None:
        """The topic for one kind of result; None where it is off, as verdicts are unless they are asked for."""
        defaults = {
            "anomalies": self.topics[0],
            "rejects": "logs-rejected",
            "templates": "templates",
            "status": "status",
            "incidents": "incidents",
        }
        return self.options.get(kind, defaults.get(kind)) or None


class FileAddress(Strict):
    """A file, folder or pattern: `file:/path/app.log?name=value…`.

    Attributes:
        path: relative to the working directory.
        options: `follow` (1|0) for sources; `rejects`, `templates`, `verdicts`, `status`, `incidents` (paths, empty for off) for sinks.
    """

    path: str
    options: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> FileAddress:
        """The address in a URL.

        Raises:
            SettingsError: no path.

        >>> FileAddress.parse("file:app.log?follow=1")
        FileAddress(path='app.log', options={'follow': '1'})
        """
        parts = urlsplit(url)
        path = unquote(parts.netloc + parts.path)
        if not path:
            raise SettingsError(f"{url!r} names no file; write file:path/to/app.log")
        if parts.fragment or "#" in url:
            raise SettingsError(f"{url!r}: write %23 for a '#' in a path")
        return cls(path=path, options=_options(url, parts.query))

    @classmethod
    def source(cls, url: str) -> FileAddress:
        """The address of a source.

        Raises:
            SettingsError: it is no address, an option is unknown or wrong, or a compressed file is to be followed.
        """
        address = cls.parse(url)
        _refuse_unknown(f"the file source {url!r} (write %3F for a '?' in a path)", address.options, ("follow",))
        if address.options.get("follow", "0") not in _FLAGS:
            raise SettingsError(f"follow={address.options['follow']} in {url!r}: write follow=1, or leave it out")
        if address.is_followed and Path(address.path).suffix in COMPRESSED:
            raise SettingsError(
                f"{url!r}: a compressed file does not grow; leave follow out, and it is read to its end"
            )
        return address

    @classmethod
    def sink(cls, url: str) -> FileAddress:
        """The address of a sink.

        Raises:
            SettingsError: it is no address, an option is unknown, or one file is to hold two kinds of result.
        """
        address = cls.parse(url)
        _refuse_unknown(f"the file sink {url!r}", address.options, RESULTS[1:])
        if Path(address.path).is_dir():
            raise SettingsError(
                f"the file sink {url!r} is a folder; name a file in it, such as {Path(address.path) / 'anomalies.jsonl'}"
            )
        return address

    @property
    def is_followed(self) -> bool:
        """True where the file is read on as it grows."""
        return _FLAGS[self.options.get("follow", "0")]

    def place(self, kind: str) -> Path | None:
        """The absolute path for one kind of result; None where it is off, as verdicts, status and incidents are unless they are asked for."""
        folder = Path(self.path).parent
        defaults = {
            "anomalies": Path(self.path),
            "rejects": folder / "logs-rejected.jsonl",
            "templates": folder / "templates.jsonl",
        }
        path = self.options.get(kind, defaults.get(kind))
        return Path(path).absolute() if path else None

    def reads(self, path: Path) -> bool:
        """True for a path that this source reads."""
        own = Path(self.path).absolute()
        return path == own or path.parent == own or path.match(str(own))


Sink = KafkaAddress | FileAddress | LokiParams | RedisParams | ElasticParams

_SINKS: dict[str, Callable[[str], Sink]] = {
    "kafka": KafkaAddress.sink,
    "file": FileAddress.sink,
    "loki": LokiParams.from_url,
    "redis": RedisParams.from_url,
    "rediss": RedisParams.from_url,
    "elastic": ElasticParams.from_url,
}
_SOURCES: dict[str, Callable[[str], KafkaAddress | FileAddress]] = {
    "kafka": KafkaAddress.source,
    "file": FileAddress.source,
}


def parse_source(url: str) -> KafkaAddress | FileAddress:
    """The source that an address names.

    Raises:
        SettingsError: it is none, or something in it is wrong.
    """
    return _parser(url, _SOURCES, "source")(url)


def parse_sink(url: str) -> Sink:
    """The sink that an address names.

    Raises:
        SettingsError: it is none, or something in it is wrong.
    """
    return _parser(url, _SINKS, "sink")(url)


def _parser(url: str, parsers: dict[str, Callable[[str], T]], what: str) -> Callable[[str], T]:
    scheme = urlsplit(url).scheme.split("+")[0]  # loki+https
    if scheme not in parsers:
        raise SettingsError(f"{masked(url)!r}: a {what} starts with one of {', '.join(f'{name}:' for name in parsers)}")
    return parsers[scheme]
