"""Commands reach the running job on a real cluster: what people say holds within moments, and models change under load without a lost line."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import orjson
from kafka import KafkaProducer

from models.artefact import load_all
from models.control import Command, Feedback, Pattern, SetModel, Undo
from models.store import Store
from tests.e2e.shop_stream import Sender, ShopStream, Tail


class Desk:
    """Where somebody sits who sends commands and waits for the answers."""

    def __init__(self, run: ShopStream, topic: str) -> None:
        self._run, self._topic = run, topic
        self._producer = KafkaProducer(bootstrap_servers=run.broker.bootstrap, acks="all", linger_ms=0)
        self._status = Tail(run.broker, run.status, "read_uncommitted")
        self._numbers = itertools.count(1)
        self.newest: dict[str, dict[str, Any]] = {}

    def say(self, kind: type[Command], service: str, **fields: Any) -> tuple[str, dict[str, Any], float]:
        """Send a command; gives its id, the answer, and after how many seconds it came."""
        command_id = f"c{next(self._numbers)}"
        version = int(time.time() * 1000)
        command = kind(command_id=command_id, version=version, service=service, by="ada", **fields)
        began = time.monotonic()
        self._producer.send(self._topic, command.to_bytes(), key=command.key).get(10)
        while command_id not in self.newest.get(service, {}).get("commands", {}):
            for record in self._status.poll():
                self.newest[record.key.decode()] = orjson.loads(record.value)
            assert time.monotonic() < began + 60, (
                f"no answer to {command_id}; {self._run.cluster.rest.condition(self._run.job)}"
            )
        return command_id, self.newest[service]["commands"][command_id], time.monotonic() - began

    def close(self) -> None:
        self._producer.close()
        self._status.close()


def test_feedback_and_a_new_model_act_in_the_running_job_and_no_line_is_lost_or_judged_twice(
    stream, shop, kafka_broker, new_topic, tmp_path
):
    topic = new_topic("control")
    (model,) = load_all(shop.model).values()
    store = Store.open(str(tmp_path / "store"))
    run = stream(control=f"kafka://{kafka_broker.bootstrap}/{topic}", store=str(tmp_path / "store"))
    run.submit(1)
    half = len(shop.messages) // 2
    run.send(shop.messages[:half])
    run.wait_until_accounted(half)
    told = [orjson.loads(record.value) for record in run.committed(run.anomalies)]
    service = max({one["service"] for one in told}, key=lambda name: sum(one["service"] == name for one in told))
    patterns = {
        one["pattern"]: one["level"] for anomaly in told if anomaly["service"] == service for one in anomaly["patterns"]
    }
    noisy = [Pattern(pattern=name, level=level + 1) for name, level in list(patterns.items())[:60]]

    sender = Sender(run, shop.messages[half:], per_s=300)
    desk = Desk(run, topic)
    sender.start()
    waits = []
    for _ in range(10):
        command, answer, wait = desk.say(
            Feedback, service, label="normal", anomaly_id=told[0]["anomaly_id"], patterns=tuple(noisy)
        )
        assert answer["is_obeyed"], answer
        assert {one["command_id"] for one in desk.newest[service]["muted"]} == {command}
        waits.append(wait)
        _, answer, wait = desk.say(Undo, service, target=command)
        assert answer["is_obeyed"], answer
        assert not desk.newest[service]["muted"]
        waits.append(wait)
    print(f"a command was obeyed after {sorted(waits)[len(waits) // 2]:.2f} s (median), {max(waits):.2f} s at most")

    other = replace(model, service=service, training={**model.training, "lines": 1})
    store.save(other)
    assert not sender.is_done
    _, answer, _ = desk.say(SetModel, service, model_version=other.version)
    assert answer["is_obeyed"], answer
    assert desk.newest[service]["model_version"] == other.version
    _, answer, _ = desk.say(SetModel, service, model_version="0123456789ab")
    assert not answer["is_obeyed"], "it is not in the store"
    _, answer, _ = desk.say(Feedback, service, label="normal", anomaly_id=told[0]["anomaly_id"], patterns=tuple(noisy))
    assert answer["is_obeyed"], answer
    sender.finish()
    run.wait_until_accounted(len(shop.messages))
    desk.close()

    assert set(run.accounted().values()) == {1}
    assert len(run.accounted()) == len(shop.messages)
    later = [orjson.loads(record.value) for record in run.committed(run.anomalies)][len(told) :]
    versions = {one["model_version"] for one in later if one["service"] == service}
    assert other.version in versions
    assert {one["model_version"] for one in later if one["service"] != service} == {model.version}
    assert run.cluster.rest.exceptions(run.job) == []
