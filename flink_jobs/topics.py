"""The topics a job needs: sources must be there, sinks are made where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

from flink_jobs.kafka_client import security_keywords, unreachable
from flink_jobs.settings import KafkaAddress, Settings
from models.errors import SettingsError

#: Nobody needs an incident that was over a month ago; compaction alone would keep every one for ever.
_INCIDENTS_KEPT_MS = 30 * 86_400_000


def ensure(settings: Settings, wanted: Mapping[str, list[str]]) -> None:
    """Check the source topics and make the missing sink topics, and the control topic.

    Args:
        settings: the sources, and how to reach the brokers.
        wanted: sink topics by bootstrap servers.

    Raises:
        SettingsError: the broker cannot be reached, or a source topic is not there.
    """
    sources: dict[str, list[str]] = {}
    for url in settings.source:
        if urlsplit(url).scheme == "kafka":
            address = KafkaAddress.parse(url)
            sources.setdefault(address.servers, []).extend(address.topics)
    wanted = {servers: list(topics) for servers, topics in wanted.items()}
    if settings.control:
        control = KafkaAddress.control(settings.control)
        wanted.setdefault(control.servers, []).append(control.topics[0])
    secrets = {name: value.get_secret_value() for name, value in settings.kafka_properties.items()}
    for servers in {**sources, **wanted}:
        _ensure(servers, sources.get(servers, []), wanted.get(servers, []), settings, security_keywords(secrets))


def _ensure(
    servers: str, sources: list[str], sinks: list[str], settings: Settings, keywords: Mapping[str, Any]
) -> None:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    try:
        admin = KafkaAdminClient(bootstrap_servers=servers.split(","), bootstrap_timeout_ms=10_000, **keywords)
    except (KafkaError, OSError, ValueError) as error:
        raise unreachable(servers, keywords, error) from error
    try:
        there = set(admin.list_topics())
        missing = [topic for topic in sources if topic not in there]
        if missing:
            raise SettingsError(
                f"There is no topic {', '.join(missing)} at {servers}; create it, or correct --source. "
                f"There are: {', '.join(sorted(t for t in there if not t.startswith('__'))) or 'none'}."
            )
        for topic in sinks:
            if topic not in there:
                options = _options(topic, settings)
                try:
                    admin.create_topics({topic: options}, wait_for_metadata=True)
                except TopicAlreadyExistsError:
                    continue
                logger.info("created topic {} with {} partitions", topic, options["num_partitions"])
    except KafkaError as error:
        raise SettingsError(
            f"The topics at {servers} cannot be prepared ({type(error).__name__}: {error}); create {', '.join(sinks)} by hand "
            "and set create_topics to false."
        ) from error
    finally:
        admin.close()


def _options(topic: str, settings: Settings) -> dict[str, Any]:
    """How a topic is made. Commands are kept for ever and in one order: a job without state reads them all again."""
    options = {
        "num_partitions": settings.topic_partitions,
        "replication_factor": settings.topic_replicas,
        "configs": {},
    }
    if settings.control and topic == KafkaAddress.control(settings.control).topics[0]:
        return options | {"num_partitions": 1, "configs": {"retention.ms": "-1"}}
    if topic in {KafkaAddress.parse(url).place("incidents") for url in settings.sink if url.startswith("kafka:")}:
        return options | {"configs": {"cleanup.policy": "compact,delete", "retention.ms": str(_INCIDENTS_KEPT_MS)}}
    if topic in settings.compacted_topics:
        return options | {"configs": {"cleanup.policy": "compact"}}
    return options
