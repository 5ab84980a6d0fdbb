"""A broker that takes clients over TLS and with a password only: the job, replay and train, and what is said when it does not work."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from typer.testing import CliRunner

from flink_jobs import topics
from flink_jobs.cli import app
from flink_jobs.kafka_client import security_keywords
from flink_jobs.runtime.broker import Broker, Security
from flink_jobs.runtime.certificates import Authority
from flink_jobs.settings import load
from models.errors import SettingsError

LINES = 300
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def broker(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    security = Security(authority.certify("broker"), authority.pem)
    with Broker(tmp_path_factory.mktemp("secure"), security=security) as started:
        yield started


@pytest.fixture
def by_environment(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties as an installation gives them: one variable, no flag."""
    assert broker.security is not None
    monkeypatch.setenv("DRIFTWOOD_KAFKA_PROPERTIES", json.dumps(broker.security.client()))


def read(broker: Broker, topic: str) -> list[bytes]:
    """All committed values of a topic of one partition."""
    assert broker.security is not None
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        isolation_level="read_committed",
        **security_keywords(broker.security.client()),
    )
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        found: list[bytes] = []
        while consumer.position(partition) < end:
            found += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
        return found
    finally:
        consumer.close()


def log(path: Path) -> Path:
    lines = [
        json.dumps({"service": "cart", "message": f"order {n} paid in {n % 40} ms", "time": 1_700_000_000_000 + n})
        for n in range(LINES)
    ]
    path.write_text("\n".join([*lines, "[1,2]"]) + "\n")
    return path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("by_environment")
def test_replay_train_and_the_job_go_through_tls_and_scram(broker: Broker, tmp_path: Path):
    broker.create_topic("logs")
    assert (
        json.loads(run("replay", str(log(tmp_path / "a.log")), "--to", f"kafka://{broker.bootstrap}/logs", "--json"))[
            "lines"
        ]
        == LINES + 1
    )
    assert len(read(broker, "logs")) == LINES + 1

    outcome = run(
        "train",
        f"kafka://{broker.bootstrap}/logs",
        "--out",
        str(tmp_path / "models"),
        "--device",
        "cpu",
        "--epochs",
        "1",
        "--json",
    )
    trained = json.loads(outcome[outcome.index("{") :])
    assert (trained["lines"], trained["rejected"], list(trained["models"])) == (LINES, 1, ["cart"])

    # The job reads and writes through the JVM's client, with transactions.
    source, sink = (
        f"kafka://{broker.bootstrap}/logs?start=earliest&until=latest",
        f"kafka://{broker.bootstrap}/anomalies?verdicts=verdicts",
    )
    options = ["--model", str(tmp_path / "models"), "--parallelism", "1", "--web-port", "0"]
    _job(["run", "--source", source, "--sink", sink, *options], tmp_path)
    accounts = [json.loads(value) for value in read(broker, "verdicts")]
    assert sum(part["records"] for account in accounts for part in account["accounts"]) == LINES
    assert len(read(broker, "logs-rejected")) == 1
    assert len(read(broker, "templates")) >= 1


def _job(arguments: list[str], folder: Path) -> None:
    """In a process of its own: the mini-cluster stays in the JVM it was started in."""
    log = folder / "job.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flink_jobs.cli", *arguments]
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=400, cwd=ROOT)
    assert done.returncode == 0, log.read_text()[-4_000:]


def test_plain_logs_in_too(broker: Broker):
    assert broker.security is not None
    keywords = security_keywords(broker.security.client("PLAIN"))
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap, **keywords) as admin:
        assert isinstance(admin.list_topics(), list)


def refused(broker: Broker, properties: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """What the job, replay and train say, each within half a minute."""
    monkeypatch.setenv("DRIFTWOOD_KAFKA_PROPERTIES", json.dumps(properties))
    address = f"kafka://{broker.bootstrap}/logs"
    said = set()
    for arguments in (
        ["replay", str(log(tmp_path / "a.log")), "--to", address],
        ["train", address, "--out", str(tmp_path / "m")],
    ):
        began = time.monotonic()
        with pytest.raises(SettingsError) as error:
            run(*arguments)
        assert time.monotonic() - began < 30
        said.add(str(error.value))
    with pytest.raises(SettingsError) as error:
        topics.ensure(load(source=(address,)), {})
    said.add(str(error.value))
    return said


def test_a_certificate_of_another_authority_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    other = Authority.make(tmp_path / "other")
    assert broker.security is not None
    properties = broker.security.client() | {"ssl.truststore.location": str(other.pem)}
    (text,) = refused(broker, properties, monkeypatch, tmp_path)
    assert "not signed by any in" in text
    assert "ssl.truststore.location" in text


def test_a_wrong_password_and_a_missing_login_are_told(broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert broker.security is not None
    wrong = Security(broker.security.store, broker.security.authority, password="guessed")
    (text,) = refused(broker, wrong.client(), monkeypatch, tmp_path)
    assert "check user, password and sasl.mechanism" in text
    assert "guessed" not in text
    (text,) = refused(broker, {}, monkeypatch, tmp_path)
    assert "speaks TLS" in text


def test_an_expired_certificate_and_one_of_another_name_are_told(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, options, words in (
        ("old", {"start": "-20d", "days": 5}, "renew it at the broker"),
        ("elsewhere", {"names": "dns:kafka.example"}, "a name that is in it"),
    ):
        security = Security(authority.certify(name, **options), authority.pem)
        broker = Broker(tmp_path / name, security=security)
        monkeypatch.setattr(broker, "is_ready", lambda broker=broker: _listens(broker.port))
        with broker:
            (text,) = refused(broker, security.client(), monkeypatch, tmp_path)
        assert words in text


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
