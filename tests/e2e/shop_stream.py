"""The job over a shop's log on a real cluster: what is sent, what comes out, and what the core alone makes of the same records."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import torch
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from flink_jobs import job
from flink_jobs.runtime import submit
from flink_jobs.runtime.broker import Broker
from flink_jobs.runtime.cluster import Cluster
from flink_jobs.runtime.processes import ServiceError
from flink_jobs.settings import Settings, load
from models.artefact import load_all, save
from models.conformal import NormalScores
from models.datasets import to_batches
from models.fitting import FitParams
from models.packing import unpack
from models.parsing import Raw
from models.sample.shop import ShopParams, generate
from models.shard import Shard, Step
from models.train import TrainParams, train
from models.training_buffer import RedisParams, SequenceBatch
from models.training_buffer import Sequence as LineSequence
from models.windows import WindowParams
from udfs.clients.training_buffer import connect, read_sequences, read_services

#: About 22,000 messages of eight services over eight minutes of event time.
REQUESTS = 1_000
_BATCH = 1_000
#: What DeepLog's scores of normal lines and ends are said to be: a line less likely than one in four stands out, and nearly every end.
_CALM, _CALM_END = 0.6, 0.001
#: Records that are no log lines, one after every so many that are.
_BAD = (b"", b"[1,2]", b"\x1f\x8b\x08\x00", b'{"service":"cart","level":"INFO"}')
_BAD_EVERY = 250
_ISOLATIONS = ("read_committed", "read_uncommitted")

Message = tuple[str, bytes]  # service, value


@dataclass(frozen=True)
class Shop:
    """A log, and a folder with a model of its first part that tells of many lines."""

    messages: Sequence[Message]
    model: Path
    learning: int  # so many messages come first that hold no fault


def open_shop(folder: Path) -> Shop:
    """Generates the log and trains the model; seconds."""
    # Close to now: Loki then takes every event time as it is.
    start_ms = int(time.time() * 1000) - 3_000_000
    lines = list(generate(ShopParams(requests=REQUESTS, learn_ratio=0.4, fault_ratio=0.2, start_ms=start_ms)))
    _train([line.value for line in lines if line.is_learning], folder)
    messages: list[Message] = []
    learning = 0
    for number, line in enumerate(lines):
        messages.append((line.service, line.value))
        if number % _BAD_EVERY == _BAD_EVERY - 1:
            messages.append((line.service, _BAD[number // _BAD_EVERY % len(_BAD)]))
        learning = len(messages) if line.is_learning else learning
    return Shop(messages, folder, learning)


def _train(values: Iterable[bytes], folder: Path) -> None:
    fit = FitParams(hidden=24, layers=1, dropout=0, learning_rate=0.02, min_steps=300, max_steps=300, device="cpu")
    windows = WindowParams(session_gap_ms=int(Settings().session_gap_s * 1000))
    with _one_thread():
        trained = train(to_batches(values), None, TrainParams(fit=fit, windows=windows), default=True)
    for artefact in trained.artefacts.values():
        # It takes its normal lines for those of years, and for less surprising than they are: it is to tell of many lines, not of the right ones.
        known = artefact.calibration
        line, end = (NormalScores.of(np.full(1_000, calm, np.float32)) for calm in (_CALM, _CALM_END))
        strict = replace(known, line={**known.line, "deeplog": line}, end={**known.end, "deeplog": end}, days=1_000.0)
        save(replace(artefact, calibration=strict), folder)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes on one thread: beside a cluster more only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class Judged:
    """What comes of the records of a topic.

    Attributes:
        anomalies: by id and revision.
        scored, rejected: how many times each (partition, offset) was.
        catalogue: the newest entry by its key.
        sequences: (partition, offset, template id) of each line, by service, in order.
    """

    anomalies: Counter[tuple[str, int]] = field(default_factory=Counter)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    scored: Counter[tuple[int, int]] = field(default_factory=Counter)
    rejected: Counter[tuple[int, int]] = field(default_factory=Counter)
    catalogue: dict[str, dict[str, Any]] = field(default_factory=dict)
    sequences: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        for _, anomaly in step.anomalies:
            self.add_anomaly(anomaly)
        if step.ranges:
            self.add_account(step.ranges)
        for key, entry in step.catalogue:
            self.catalogue[key] = orjson.loads(entry)
        for packed in (step.sequences or SequenceBatch(())).sequences:
            self.add_sequence(LineSequence.unpack(packed.service, packed.topic, packed.partition, packed.packed))

    def add_anomaly(self, blob: bytes) -> None:
        anomaly = orjson.loads(blob)
        self.anomalies[anomaly["anomaly_id"], anomaly["revision"]] += 1
        self.found[anomaly["anomaly_id"]] = anomaly

    def add_account(self, blob: bytes) -> None:
        account = orjson.loads(blob)
        for part in account["accounts"]:
            for first, last in part["scored"]:
                self.scored.update((part["partition"], offset) for offset in range(first, last + 1))
        # A message of several records may have several bad ones: it is one offset.
        self.rejected.update({(partition, offset) for _, partition, offset, _ in account["rejected"]})

    def add_sequence(self, lines: LineSequence) -> None:
        rows = zip(lines.offsets.tolist(), lines.template_ids.tolist(), strict=True)
        of_service = self.sequences.setdefault(lines.service, [])
        of_service += [(lines.partition, offset, number) for offset, number in rows]

    @property
    def accounted(self) -> Counter[tuple[int, int]]:
        """How many times each (partition, offset) was scored or rejected."""
        return self.scored + self.rejected


def stored_sequences(buffer: str) -> dict[str, list[tuple[int, int, int]]]:
    """The (partition, offset, template id) of each line in the training buffer at an address, as in `Judged.sequences`."""
    where, stored = RedisParams.from_url(buffer), Judged()
    with connect(where) as client:
        for service in read_services(client, where):
            for lines in read_sequences(client, where, service):
                stored.add_sequence(lines)
    return stored.sequences


def same(anomaly: dict[str, Any]) -> dict[str, Any]:
    """An anomaly without what follows from the text of its line's templates, which may still generalise inside a batch."""
    texts = ("template", "slug", "parameters", "explanation", "context")
    context = [entry["template_id"] for entry in anomaly["context"]]
    return {name: value for name, value in anomaly.items() if name not in texts} | {"context": context}


def assert_equal(judged: Judged, expected: Judged) -> None:
    """The same anomalies and accounts, each once; enough of them to mean something."""
    assert len(expected.anomalies) > 100
    assert {anomaly["kind"] for anomaly in expected.found.values()} == {"line", "end"}
    lost = expected.anomalies.keys() - judged.anomalies.keys()
    added = judged.anomalies.keys() - expected.anomalies.keys()
    assert (len(lost), len(added)) == (0, 0), [expected.found.get(i) or judged.found[i] for i, _ in [*lost, *added]][:3]
    assert judged.anomalies == expected.anomalies
    differing = [i for i, anomaly in expected.found.items() if judged.found[i] != anomaly]
    assert [same(judged.found[i]) for i in differing] == [same(expected.found[i]) for i in differing]
    assert len(differing) <= len(expected.found) // 100, (judged.found[differing[0]], expected.found[differing[0]])
    assert judged.scored == expected.scored
    assert judged.rejected == expected.rejected
    assert set(judged.accounted.values()) == {1}
    assert judged.catalogue == expected.catalogue


class ShopStream:
    """The topics of one test, the job between them, and the messages on their way."""

    def __init__(
        self,
        cluster: Cluster,
        broker: Broker,
        new_topic: Callable[..., str],
        model: Path | None,
        sinks: Sequence[str] = (),
        **sets: str,
    ) -> None:
        self.cluster = cluster
        self.broker = broker
        self.source = new_topic("shop", partitions=2)
        self.anomalies = new_topic("anomalies")
        self.rejects = new_topic("rejects")
        self.templates = new_topic("templates", cleanup_policy="compact")
        self.verdicts = new_topic("verdicts")
        self.status = new_topic("status", cleanup_policy="compact")
        options = f"rejects={self.rejects}&templates={self.templates}&verdicts={self.verdicts}&status={self.status}"
        self.sets = sets
        self.settings = load(
            source=(f"kafka://{broker.bootstrap}/{self.source}?start=earliest",),
            sink=(f"kafka://{broker.bootstrap}/{self.anomalies}?{options}", *sinks),
            model=model,
            job_name=self.source,
            cluster="e2e",
            checkpoint_interval_s=2,
            **sets,
        )
        self.job = ""

    def submit(self, parallelism: int = 2, savepoint: str | None = None) -> str:
        """Submits the job and waits until it runs."""
        arguments = [] if self.settings.model is None else ["--model", str(self.settings.model)]
        for name in ("source", "sink"):
            for address in getattr(self.settings, name):
                arguments += [f"--{name}", address]
        for name in ("job_name", "cluster", "checkpoint_interval_s", *self.sets):
            arguments += ["--set", f"{name}={getattr(self.settings, name)}"]
        self.job = submit.submit(self.cluster, arguments, parallelism=parallelism, savepoint=savepoint)
        self.cluster.rest.wait(self.job)
        return self.job

    # ---- what went in

    def producer(self) -> KafkaProducer:
        """A producer that waits for a broker that is away, and writes nothing twice."""
        return KafkaProducer(
            bootstrap_servers=self.broker.bootstrap,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=150_000,
            linger_ms=5,
            # What was under way to a broker that died is sent again soon after it is back.
            request_timeout_ms=5_000,
            reconnect_backoff_max_ms=500,
        )

    def send(self, messages: Iterable[Message]) -> None:
        """Writes messages and returns when the broker has them all."""
        sender = Sender(self, list(messages))
        sender.hurry()
        sender.start()
        sender.finish()

    def records(self) -> list[Any]:
        """All records of the source topic, one partition after the other."""
        found = Tail(self.broker, self.source, isolation="read_uncommitted").read(timeout_s=60)
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def by_core(self) -> Judged:
        """What the core makes of the records of the source topic."""
        return self.core_over(self.records())

    def core_over(self, records: Sequence[Any]) -> Judged:
        """What the core, without any state before, makes of some records."""
        batching, shards = job.core_params(self.settings)
        shards = replace(shards, has_sequences=True)
        batcher, models, judged = batching.build(), load_all(str(self.settings.model)), Judged()
        states: dict[int, Shard] = {}
        with _one_thread():
            for raw in _raw(records):
                for number, blob in batcher.step(raw):
                    if number not in states:
                        states[number] = shards.build(models)
                    judged.add(states[number].step(unpack(blob)))
        return judged

    # ---- what came out

    def committed(self, topic: str) -> list[Any]:
        """The committed records of a topic, from its beginning to its end."""
        return Tail(self.broker, topic).read(timeout_s=60)

    def judged(self) -> Judged:
        """What the job has committed so far."""
        judged = Judged()
        for record in self.committed(self.anomalies):
            judged.add_anomaly(record.value)
        for record in self.committed(self.verdicts):
            judged.add_account(record.value)
        for record in self.committed(self.templates):
            judged.catalogue[record.key.decode()] = orjson.loads(record.value)
        return judged

    def accounted(self) -> Counter[tuple[int, int]]:
        """How many times each (partition, offset) was scored or rejected, as far as that is committed."""
        judged = Judged()
        for record in self.committed(self.verdicts):
            judged.add_account(record.value)
        return judged.accounted

    def wait_for_open_work(self) -> None:
        """Waits for a commit, and then for new verdicts: a checkpoint's interval has just begun, and holds work that is not committed."""
        committed, written = (Tail(self.broker, self.verdicts, isolation) for isolation in _ISOLATIONS)
        until = self.cluster.rest.until
        try:
            end = committed.end()
            until(lambda: committed.end() > end, 60, "a commit")
            end = written.end()
            until(lambda: written.end() > end, 60, "new verdicts")
        finally:
            committed.close()
            written.close()

    def wait_until_accounted(self, count: int, timeout_s: float = 180) -> None:
        """Waits until so many offsets are scored or rejected, and committed."""
        judged, tail = Judged(), Tail(self.broker, self.verdicts)

        def has_all() -> bool:
            for record in tail.poll():
                judged.add_account(record.value)
            return len(judged.accounted) >= count

        rest = self.cluster.rest
        try:
            rest.until(has_all, timeout_s, f"the account of {count} offsets")
        except ServiceError as error:
            raise AssertionError(
                f"{len(judged.accounted)} of {count} offsets were accounted for in {timeout_s:.0f} s; {rest.condition(self.job)}"
            ) from error
        finally:
            tail.close()
        # One checkpoint more: whatever stood twice would be committed with it at the latest.
        rest.wait_for_checkpoints(self.job, 2)

    def assert_no_orphans(self) -> None:
        """Every Python worker of the cluster belongs to a TaskManager that is alive."""
        self.cluster.rest.until(lambda: not self._orphans(), 30, "the end of Python workers without a TaskManager")
        assert self.cluster.python_workers()

    def _orphans(self) -> list[psutil.Process]:
        alive = {process.pid for process in self.cluster.taskmanagers if process.alive}
        found = []
        for worker in self.cluster.python_workers():
            try:
                if not alive & {parent.pid for parent in worker.parents()}:
                    found.append(worker)
            except psutil.NoSuchProcess:
                continue
        return found


def _raw(records: Sequence[Any]) -> Iterable[Raw]:
    for first in range(0, len(records), _BATCH):
        part = records[first : first + _BATCH]
        yield Raw(
            values=[record.value for record in part],
            topic=part[0].topic,
            partition=np.array([record.partition for record in part], np.int32),
            offset=np.array([record.offset for record in part], np.int64),
            timestamp_ms=np.array([record.timestamp for record in part], np.int64),
        )


class Tail:
    """Reads a topic from its beginning on, as far as it is written."""

    def __init__(self, broker: Broker, topic: str, isolation: str = "read_committed") -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker.bootstrap, enable_auto_commit=False, isolation_level=isolation
        )
        numbers: set[int] = set()
        while not numbers:
            numbers = self._consumer.partitions_for_topic(topic) or set()
        self._partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def end(self) -> int:
        """The end of what can be read now, in offsets of all partitions together; of a read_committed reader, of what is decided."""
        return sum(self._consumer.end_offsets(self._partitions).values())

    def poll(self) -> list[Any]:
        """What has come since the last call."""
        batches = self._consumer.poll(timeout_ms=300, max_records=20_000)
        return [record for records in batches.values() for record in records]

    def read(self, timeout_s: float) -> list[Any]:
        """Everything up to the present end; closes the consumer."""
        found: list[Any] = []
        deadline = time.monotonic() + timeout_s
        try:
            ends = self._consumer.end_offsets(self._partitions)
            while any(self._consumer.position(partition) < end for partition, end in ends.items()):
                found += self.poll()
                assert time.monotonic() < deadline, f"{self._partitions[0].topic} could not be read to its end"
        finally:
            self.close()
        return found

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()


class Sender(threading.Thread):
    """Writes messages to the source topic at a steady pace, keyed by service, until told to hurry."""

    def __init__(self, stream: ShopStream, messages: Sequence[Message], per_s: int = 400) -> None:
        super().__init__(name="sender", daemon=True)
        self._stream = stream
        self._messages = messages
        self._per_s = per_s
        self._is_hurried = threading.Event()
        self._error: BaseException | None = None
        self.sent = 0  # and acknowledged by the broker

    def run(self) -> None:
        """Sends in steps of a twentieth of a second."""
        try:
            producer = self._stream.producer()
            try:
                while self.sent < len(self._messages):
                    count = 2_000 if self._is_hurried.is_set() else max(1, self._per_s // 20)
                    part = self._messages[self.sent : self.sent + count]
                    for service, value in part:
                        producer.send(self._stream.source, value, key=service.encode())
                    producer.flush(150)
                    self.sent += len(part)
                    self._is_hurried.wait(0.05)
            finally:
                producer.close(timeout=5)
        except BaseException as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether every message is at the broker."""
        return self.sent >= len(self._messages)

    def hurry(self) -> None:
        """From now on sends as fast as it can."""
        self._is_hurried.set()

    def finish(self, timeout_s: float = 180) -> None:
        """Sends the rest at once and returns when the broker has it."""
        self.hurry()
        self.join(timeout_s)
        if self._error is not None:
            raise self._error
        assert self.is_done, f"{self.sent} of {len(self._messages)} messages were sent in {timeout_s:.0f} s"
