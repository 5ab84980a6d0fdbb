from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import typer
from kafka.errors import KafkaConnectionError
from typer.testing import CliRunner

from flink_jobs.commands.doctor import command
from flink_jobs.doctor.canary import SERVICE, is_canary
from flink_jobs.doctor.checks import Check, is_well
from flink_jobs.doctor.parts import Job, judge_buffer, judge_clocks, judge_job
from flink_jobs.doctor.topics import Lag, Topic, Wanted, judge_dead_letters, judge_lag, judge_services, judge_topics
from flink_jobs.kafka_client import fault, security_keywords, unreachable
from models.errors import SettingsError

NOW = 1_800_000_000_000
COMPACT = {"cleanup.policy": "compact"}


def verdicts(checks: list[Check]) -> list[tuple[str, str]]:
    for check in checks:
        assert check.what.strip()
        assert check.step or check.verdict in ("ok", "skipped"), check
    return [(check.name, check.verdict) for check in checks]


def topics(want: Wanted, topic: Topic | None, brokers: int = 1, parallelism: int | None = None) -> list[str]:
    there = {} if topic is None else {want.topic: topic}
    return [verdict for _, verdict in verdicts(judge_topics([want], there, brokers=brokers, parallelism=parallelism))]


@pytest.mark.parametrize(
    ("want", "topic", "expected"),
    [
        (Wanted("logs", "source"), Topic(4, 1), ["ok"]),
        (Wanted("logs", "source"), None, ["fail"]),
        (Wanted("logs", "source"), Topic(4, 1, COMPACT), ["fail"]),
        (Wanted("templates", "kept"), Topic(1, 1, COMPACT), ["ok"]),
        (Wanted("templates", "kept"), Topic(1, 1), ["fail"]),
        (Wanted("anomalies", "sink"), Topic(1, 1, COMPACT), ["fail"]),
        (Wanted("control", "control"), Topic(1, 1, {"retention.ms": "-1"}), ["ok"]),
        (Wanted("control", "control"), Topic(3, 1, {"retention.ms": "-1"}), ["fail"]),
        (Wanted("control", "control"), Topic(1, 1), ["warn"]),
    ],
)
def test_a_topic_must_be_there_and_keep_what_it_is_for(want: Wanted, topic: Topic | None, expected: list[str]):
    assert topics(want, topic) == expected


def test_too_few_partitions_and_replicas_are_warned_of():
    assert topics(Wanted("logs", "source"), Topic(2, 1), brokers=3, parallelism=4) == ["warn", "warn"]
    assert topics(Wanted("logs", "source"), Topic(4, 2), brokers=3, parallelism=4) == ["ok"]


def test_the_lag_is_judged_by_its_size_and_a_job_that_never_committed_fails():
    def lag(behind: int, uncommitted: int = 0) -> str:
        check = judge_lag(Lag("logs", "driftwood", 10_000_000 - behind, 10_000_000, uncommitted, 2))
        verdicts([check])
        return check.verdict

    assert [lag(0), lag(99_999), lag(100_000), lag(5_000_000), lag(0, 2)] == ["ok", "ok", "warn", "fail", "fail"]
    assert judge_lag(Lag("logs", "g", 0, 0, 2, 2)).verdict == "warn"


def letters(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"partition": 0, "offset": n, "reason": "no_text", **fields} for n in range(count)]


def test_the_share_of_dead_letters_counts_messages_once_and_blank_ones_not():
    def ratio(found: list[dict[str, Any]]) -> str:
        (check,) = [judge_dead_letters("logs", 1_000, found)]
        verdicts([check])
        return check.verdict

    assert [ratio(letters(n)) for n in (0, 9, 10, 199, 200)] == ["ok", "ok", "warn", "warn", "fail"]
    assert ratio([*letters(9), *letters(9)]) == "ok"
    assert ratio(letters(500, reason="empty")) == "ok"
    assert judge_dead_letters("logs", 0, []).verdict == "skipped"
    assert "no_text 12" in judge_dead_letters("logs", 1_000, letters(12)).what


def status(service: str, **fields: Any) -> dict[str, Any]:
    plain = {
        "service": service,
        "mode": "live",
        "is_auto": True,
        "mode_since_ms": NOW - 1_000,
        "why": "",
        "model_version": "0123456789ab",
        "scored": 5_000,
        "unknown_ratio": 0.0,
        "at_ms": NOW - 5_000,
    }
    return plain | fields


def test_services_that_learn_for_too_long_say_why():
    day = 24 * 3_600_000
    late = status("cart", mode="learning", mode_since_ms=NOW - day - 1, why="waits for 400 more lines")
    checks = judge_services([late, status("web")], NOW, models=["cart", "web"])
    assert verdicts(checks) == [("services", "ok"), ("learning", "warn")]
    assert "waits for 400 more lines" in checks[1].what
    by_hand = status("cart", mode="learning", is_auto=False, mode_since_ms=NOW - 9 * day)
    assert verdicts(judge_services([by_hand], NOW, models=None)) == [("services", "ok")]


def test_a_job_gone_quiet_a_model_grown_old_and_services_without_one_are_told():
    assert verdicts(judge_services([status("a", at_ms=NOW - 200_000)], NOW, models=None)) == [
        ("services", "ok"),
        ("status", "warn"),
    ]
    assert verdicts(judge_services([status("a", unknown_ratio=0.5)], NOW, models=None)) == [
        ("services", "ok"),
        ("models and lines", "warn"),
    ]
    bare = [status("a", model_version=None), status("b")]
    assert verdicts(judge_services(bare, NOW, models=["b"])) == [
        ("services", "ok"),
        ("services without a model", "warn"),
    ]
    assert verdicts(judge_services(bare, NOW, models=["default"])) == [("services", "ok")]
    assert verdicts(judge_services([], NOW, models=None)) == [("services", "warn")]


def job(**fields: Any) -> Job:
    return Job(
        **{"name": "driftwood", "state": "RUNNING", "since_ms": NOW - 3_600_000, "checkpoint_ms": NOW - 5_000} | fields
    )


def failing(checks: list[Check]) -> dict[str, str]:
    return {name: verdict for name, verdict in verdicts(checks) if verdict not in ("ok", "skipped")}


def test_a_job_that_runs_and_commits_is_well():
    assert failing(judge_job(job(), "driftwood", [], NOW)) == {}
    just_started = job(since_ms=NOW - 20_000, checkpoint_ms=None)
    assert failing(judge_job(just_started, "driftwood", [], NOW)) == {}


def test_a_job_that_does_not_run_does_not_commit_or_is_held_up_is_told():
    (missing,) = judge_job(None, "driftwood", ["other"], NOW)
    assert missing.verdict == "fail"
    assert "other" in missing.what
    assert failing(judge_job(job(state="RESTARTING", failure="SinkError: Loki is away"), "driftwood", [], NOW)) == {
        "job": "fail"
    }
    assert failing(judge_job(job(checkpoint_ms=NOW - 70_000), "driftwood", [], NOW)) == {"checkpoints": "fail"}
    assert failing(judge_job(job(checkpoint_ms=None), "driftwood", [], NOW)) == {"checkpoints": "fail"}
    recent = job(failure="TimeoutException", failure_ms=NOW - 60_000, restarts=1)
    assert failing(judge_job(recent, "driftwood", [], NOW)) == {"restarts": "warn"}
    assert failing(judge_job(job(pressure=["detect"]), "driftwood", [], NOW)) == {"backpressure": "warn"}


def test_a_buffer_that_is_empty_full_or_may_be_thrown_away_is_told():
    assert failing(judge_buffer("h:1", {"a": 5}, 100, 0, "noeviction")) == {}
    assert failing(judge_buffer("h:1", {}, 100, 0, "noeviction")) == {"redis h:1": "warn"}
    assert failing(judge_buffer("h:1", {"a": 5, "b": 0}, 100, 0, "noeviction")) == {"redis h:1": "warn"}
    assert failing(judge_buffer("h:1", {"a": 5}, 95, 100, "noeviction")) == {"redis h:1": "fail"}
    assert failing(judge_buffer("h:1", {"a": 5}, 10, 100, "allkeys-lru")) == {"redis h:1": "warn"}


def test_clocks_apart_are_told_with_their_direction():
    assert failing(judge_clocks({"loki": 400.0, "redis": -1_900.0})) == {}
    (check,) = judge_clocks({"loki": -30_000.0, "redis": 3.0})
    assert (check.verdict, "30.0 s behind" in check.what) == ("warn", True)
    assert judge_clocks({"loki": 61_000.0})[0].verdict == "fail"
    assert judge_clocks({})[0].verdict == "skipped"


def test_only_a_failed_check_makes_a_deployment_unwell():
    assert is_well([Check("a", "ok", "x"), Check("b", "warn", "x", "y"), Check("c", "skipped", "x")])
    assert not is_well([Check("a", "ok", "x"), Check("b", "fail", "x", "y")])
    assert Check("a", "fail", "x", "y").as_dict() == {"name": "a", "verdict": "fail", "what": "x", "next": "y"}


def test_the_canary_is_rejected_by_the_parser_whatever_its_settings_and_known_by_its_letter():
    import numpy as np

    from models.parsing import ParseParams, Raw, parse

    raw = Raw(
        [json.dumps([SERVICE, 17]).encode()], "logs", np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64)
    )
    for fallback in ("reject", "json"):
        _, (reject,) = parse(raw, ParseParams(text_fallback=fallback))
        assert reject.reason == "not_a_record"
        assert is_canary({"value": reject.redacted_bytes.decode()})
    assert not is_canary({"value": "[1,2]"})


def test_a_deployment_that_is_not_there_is_told_part_by_part_with_status_1(tmp_path: Path):
    app = typer.Typer()
    app.command()(command)
    options = [
        "--source",
        "kafka://127.0.0.1:9/logs",
        "--sink",
        "redis://127.0.0.1:9",
        "--sink",
        "loki://127.0.0.1:9",
        "--flink",
        "http://127.0.0.1:9",
    ]

    def nobody(**options: Any) -> None:
        raise KafkaConnectionError("refused")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kafka.KafkaAdminClient", nobody)
        done = CliRunner().invoke(app, [*options, "--model", str(tmp_path), "--json"])
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    failed = {check["name"]: check for check in found["checks"] if check["verdict"] == "fail"}
    assert failed.keys() == {"models", "kafka 127.0.0.1:9", "flink", "redis 127.0.0.1:9", "loki 127.0.0.1:9"}
    assert not found["ok"]
    assert all(check["what"] and check["next"] for check in failed.values())


# ---- the Kafka client


def test_one_set_of_properties_sets_up_the_python_client(tmp_path: Path):
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    jaas = 'org.apache.kafka.common.security.scram.ScramLoginModule required username = "ada" password="a\\"b\\\\c";'
    found = security_keywords(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": jaas,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority),
            "ssl.keystore.location": str(authority),
            "ssl.endpoint.identification.algorithm": "",
            "max.poll.records": "5",
        }
    )
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ada",
        "sasl_plain_password": 'a"b\\c',
        "ssl_cafile": str(authority),
        "ssl_certfile": str(authority),
        "ssl_keyfile": str(authority),
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("properties", "word"),
    [
        ({"ssl.truststore.location": "/a/trust.jks"}, "PEM"),
        ({"ssl.keystore.location": "/a/key", "ssl.keystore.type": "pkcs12"}, "PEM"),
        ({"ssl.truststore.location": "/nowhere/ca.pem"}, "not there"),
    ],
)
def test_stores_that_python_cannot_read_are_told(properties: dict[str, str], word: str):
    with pytest.raises(SettingsError, match=word):
        security_keywords(properties)


def test_a_broker_that_is_not_there_is_told_by_what_is_missing():
    assert "takes no connection" in str(fault("127.0.0.1:9", {}))
    assert "no host:port" in str(fault("kafka", {}))
    assert "not known here" in str(fault("no-such-host.invalid:9092", {}))
    assert "takes no connection" in str(unreachable("127.0.0.1:9", {}, ssl.SSLError()))
