"""A real single-node Kafka broker (KRaft) on localhost, from Maven artefacts: no Docker, no installation."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError
from typing_extensions import override

from flink_jobs.kafka_client import security_keywords
from flink_jobs.runtime import jars, java
from flink_jobs.runtime.certificates import STORE_PASSWORD
from flink_jobs.runtime.processes import LOCALHOST, Service, ServiceError, free_ports

# One node, one cluster: the id only has to be well formed.
CLUSTER_ID = "driftwood-local-broker"
LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1} %m%n
"""


@dataclass(frozen=True)
class Security:
    """A broker that takes clients over TLS and with a password only.

    Attributes:
        store: PKCS12 with the broker's key and certificate.
        authority: PEM of the certificate that clients trust.
        user, password: of the one user, by SCRAM-SHA-512 and PLAIN.
    """

    store: Path
    authority: Path
    user: str = "driftwood"
    password: str = "let-me-in"

    def client(self, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """The properties of a client, for Java and Python."""
        module = "plain.PlainLoginModule" if mechanism == "PLAIN" else "scram.ScramLoginModule"
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            "sasl.jaas.config": f'org.apache.kafka.common.security.{module} required username="{self.user}" password="{self.password}";',
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
        }

    def broker(self, port: int, internal_port: int) -> dict[str, str]:
        """The settings of the broker, which talks to itself (the marks of transactions) on a port of its own."""
        listener, login = "listener.name.sasl_ssl", f'required user_{self.user}="{self.password}";'
        outer, inner = f"SASL_SSL://{LOCALHOST}:{port}", f"INTERNAL://{LOCALHOST}:{internal_port}"
        return {
            "advertised.listeners": f"{outer},{inner}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            f"{listener}.plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule {login}",
            f"{listener}.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(self.store),
            "ssl.keystore.password": STORE_PASSWORD,
            "ssl.key.password": STORE_PASSWORD,
        }

    @property
    def scram(self) -> str:
        """The user, as the tool that formats the broker's folder takes it."""
        return f"SCRAM-SHA-512=[name={self.user},password={self.password}]"


def properties(folder: Path, port: int, controller_port: int) -> dict[str, str]:
    """The broker's settings: one node that is its own controller, and quick enough for tests."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOCALHOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOCALHOST}:{port},CONTROLLER://{LOCALHOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOCALHOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        # A misspelt topic is an error, not a new topic.
        "auto.create.topics.enable": "false",
        # One node cannot hold three replicas; one partition each starts in a moment where fifty take seconds.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        # Kafka's own default, written down because a Flink sink must stay below it.
        "transaction.max.timeout.ms": "900000",
        # A consumer group starts at once instead of waiting for more members.
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker may register again only when its old session is over: 9 s by default.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "400",
        # A lost consumer is noticed in seconds.
        "group.min.session.timeout.ms": "1000",
        # Lines of 1 MiB come in an envelope, and several in one message.
        "message.max.bytes": str(8 * 1024 * 1024),
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "2",
    }


class Broker(Service):
    """A Kafka broker; killed and started again it has the same port, topics and offsets."""

    name = "kafka"
    start_timeout_s = 90.0

    def __init__(
        self,
        folder: Path | None = None,
        port: int | None = None,
        heap: str = "512m",
        security: Security | None = None,
    ) -> None:
        super().__init__(folder)
        first, self._controller_port, self._internal_port = free_ports(3)
        self.port = port or first
        self.heap = heap
        self.security = security

    @property
    def bootstrap(self) -> str:
        """The address for clients: `bootstrap.servers`."""
        return f"{LOCALHOST}:{self.port}"

    @property
    def keywords(self) -> dict[str, Any]:
        """How the Python client reaches it."""
        known = {"bootstrap_servers": self.bootstrap, "bootstrap_timeout_ms": 5000}
        return known | (security_keywords(self.security.client()) if self.security else {})

    def _java(self, main: str, *options: str) -> list[str | Path]:
        logging = self.folder / "log4j2.properties"
        logging.write_text(LOGGING, encoding="utf-8")
        classpath = ":".join(str(jar) for jar in (*jars.broker_jars(), *jars.logging_jars()))
        binary = java.java_home() / "bin" / "java"
        return [binary, *options, f"-Dlog4j2.configurationFile={logging}", "-cp", classpath, main]

    @override
    def command(self) -> Sequence[str | Path]:
        config = self.folder / "server.properties"
        lines = properties(self.folder, self.port, self._controller_port)
        if self.security is not None:
            lines |= self.security.broker(self.port, self._internal_port)
            lines["listeners"] = f"{lines['advertised.listeners']},CONTROLLER://{LOCALHOST}:{self._controller_port}"
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="utf-8")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(config)
        return [*self._java("kafka.Kafka", f"-Xmx{self.heap}", "-XX:+ExitOnOutOfMemoryError"), config]

    def _format(self, config: Path) -> None:
        # Half a second of JVM: the optimising compiler would not get to work before it ends.
        tool = self._java("kafka.tools.StorageTool", "-Xmx128m", "-XX:TieredStopAtLevel=1")
        command = [*tool, "format", "--cluster-id", CLUSTER_ID, "--config", config]
        if self.security is not None:
            command += ["--add-scram", self.security.scram]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ServiceError(f"the broker's folder {self.folder} cannot be formatted:\n{done.stdout}{done.stderr}")

    @override
    def is_ready(self) -> bool:
        # kafka-python leaves a socket open for every attempt that is refused, so the port is tried first.
        try:
            socket.create_connection((LOCALHOST, self.port), timeout=1).close()
            with KafkaAdminClient(**self.keywords) as admin:
                admin.list_topics()
        except (KafkaError, OSError):
            return False
        return True

    def create_topic(self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        """Creates a topic and returns when it has its leaders; one that is there already is left as it is."""
        options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs or {})}
        admin = KafkaAdminClient(**self.keywords)
        try:
            admin.create_topics({name: options}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
