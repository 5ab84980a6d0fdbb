"""What `driftwood bench` runs: one broker, one cluster with one slot, and the jobs after one another on the same lines."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flink_jobs.bench.detectors import detector_figures
from flink_jobs.bench.rates import Rate, measure
from flink_jobs.runtime import jars, java
from flink_jobs.runtime.broker import Broker
from flink_jobs.runtime.cluster import Cluster
from flink_jobs.runtime.submit import submit
from models.errors import DriftwoodError
from models.sample.bench import BenchParams, bench_lines, novel_window_ratio

Say = Callable[[str], None]

#: Flink's own view of records read is at most this old.
CLUSTER_KEYS = {"metrics.fetcher.update-interval": "250"}


@dataclass(frozen=True)
class BenchSize:
    """How much each run reads."""

    job_lines: int = 2_000_000
    floor_lines: int = 4_000_000
    per_record_lines: int = 40_000
    train_lines: int = 100_000
    latency_s: int = 60
    memory_lines: int = 5_000_000
    detector_lines: int = 300_000


#: Share of the lines of the memory run that end with a word never seen again.
_RANDOM = 0.2
QUICK = BenchSize(
    job_lines=400_000,
    floor_lines=1_600_000,
    per_record_lines=6_000,
    train_lines=40_000,
    latency_s=20,
    memory_lines=400_000,
    detector_lines=100_000,
)


@dataclass
class Bench:
    """The broker, the cluster and the model of one bench; used as a context manager."""

    folder: Path
    size: BenchSize
    say: Say
    guarantee: str = "exactly-once"
    broker: Broker = field(init=False)
    cluster: Cluster = field(init=False)
    _started: ExitStack = field(init=False)

    def __enter__(self) -> Bench:
        # Whatever was started is stopped, also when what follows does not start.
        with ExitStack() as stack:
            self.broker = stack.enter_context(Broker(heap="1g"))
            self.cluster = stack.enter_context(Cluster(slots=1, overrides=CLUSTER_KEYS))
            self._started = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    # ---- input

    def train(self, params: BenchParams) -> Path:
        """A default model of other lines of the same services: their own share of windows never seen is part of normal running."""
        from models.train import TrainParams, train_lines

        self.say("training a model on lines of the same services")
        lines = bench_lines(replace(params, lines=self.size.train_lines, seed=params.seed + 1))
        out = self.folder / "models"
        train_lines((line for block in lines for line in block), out, TrainParams(), default=True)
        return out

    def load(self, topic: str, blocks: Iterable[Sequence[bytes]]) -> int:
        """Write lines to a topic; returns how many. Kafka's own console producer does it: ten times as fast as kafka-python."""
        self.broker.create_topic(topic)
        self.say(f"loading topic {topic}")
        lines = 0
        with self.producer(topic) as process:
            assert process.stdin is not None
            for block in blocks:
                process.stdin.write(b"\n".join(block) + b"\n")
                lines += len(block)
            process.stdin.close()
            process.wait(timeout=300)
        return lines

    def producer(self, topic: str, linger_ms: int = 100) -> subprocess.Popen[bytes]:
        """A console producer that reads lines from its standard input."""
        command = [
            java.java_home() / "bin" / "java",
            "-Xmx256m",
            "-cp",
            ":".join(str(jar) for jar in (*jars.tools_jars(), *jars.broker_jars())),
            "org.apache.kafka.tools.ConsoleProducer",
            "--bootstrap-server",
            self.broker.bootstrap,
            "--topic",
            topic,
            "--timeout",
            str(linger_ms),
            "--batch-size",
            "200000",
        ]
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        # An interrupted one would wait two minutes for the broker that is gone.
        self._started.callback(process.kill)
        return process

    # ---- runs

    def job_arguments(self, topic: str, model: Path) -> list[str]:
        """The main job's arguments on one topic."""
        return [
            f"--source=kafka://{self.broker.bootstrap}/{topic}?start=earliest",
            f"--sink=kafka://{self.broker.bootstrap}/anomalies",
            f"--model={model}",
            f"--set=guarantee={self.guarantee}",
        ]

    def run_job(self, topic: str, lines: int, model: Path, timeout_s: float = 600) -> Rate:
        """The main job over a topic that is full already."""
        return self._run(
            lambda: submit(self.cluster, self.job_arguments(topic, model)), f"job on {topic}", lines, timeout_s
        )

    def run_yardstick(self, kind: str, topic: str, lines: int, model: Path) -> Rate:
        """One of the yardsticks over the same topic."""
        arguments = [kind, "--servers", self.broker.bootstrap, "--topic", topic, "--model", str(model)]
        return self._run(
            lambda: submit(self.cluster, arguments, entry="flink_jobs.bench.yardsticks"), f"{kind} on {topic}", lines
        )

    def _run(self, start: Callable[[], str], what: str, lines: int, timeout_s: float = 600) -> Rate:
        self.say(f"running {what}")
        job = start()
        try:
            self.cluster.rest.wait(job)
            rate = measure(self.cluster, job, lines, timeout_s=timeout_s)
        finally:
            self.cluster.rest.cancel(job)
        self.say(f"  {rate.lines_per_s:,.0f} lines/s over {rate.seconds:.0f} s")
        return rate

    def latency(
        self, model: Path, params: BenchParams, lines_per_s: float, read: str = "read_uncommitted"
    ) -> np.ndarray:
        """From the broker's time of a line to its anomaly at a consumer, ms, at a steady rate."""
        topic = f"latency-{int(lines_per_s)}-{read}"
        self.broker.create_topic(topic)
        out = f"{topic}-anomalies"
        self.broker.create_topic(out)
        self.say(f"latency at {lines_per_s:,.0f} lines/s, {read}")
        arguments = self.job_arguments(topic, model)
        arguments[1] = f"--sink=kafka://{self.broker.bootstrap}/{out}"
        job = submit(self.cluster, arguments)
        try:
            self.cluster.rest.wait(job)
            return self._time(topic, out, params, lines_per_s, read)
        finally:
            self.cluster.rest.cancel(job)

    def _time(self, topic: str, out: str, params: BenchParams, lines_per_s: float, read: str) -> np.ndarray:
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(
            out,
            bootstrap_servers=self.broker.bootstrap,
            auto_offset_reset="earliest",
            isolation_level=read,
            fetch_max_wait_ms=10,
        )
        warm_s = 15
        total = int(lines_per_s * (self.size.latency_s + warm_s))
        block = max(1, int(lines_per_s / 50))
        feeder = threading.Thread(
            target=self._feed, args=(topic, bench_lines(replace(params, lines=total), block), lines_per_s), daemon=True
        )
        began = time.time()
        feeder.start()
        found: list[float] = []
        while time.time() < began + self.size.latency_s + warm_s + 12:
            for records in consumer.poll(timeout_ms=100).values():
                now = time.time() * 1000
                for record in records:
                    sent = orjson.loads(record.value)["source"]["kafka_ts"]
                    if sent > (began + warm_s) * 1000:
                        found.append(now - sent)
        consumer.close()
        feeder.join()
        if len(found) < 20:
            raise DriftwoodError(
                f"Only {len(found)} anomalies came through at {lines_per_s:.0f} lines/s: too few to time."
            )
        return np.array(found)

    def _feed(self, topic: str, blocks: Iterator[list[bytes]], lines_per_s: float) -> None:
        with self.producer(topic, linger_ms=5) as process:
            assert process.stdin is not None
            due = time.monotonic()
            for block in blocks:
                process.stdin.write(b"\n".join(block) + b"\n")
                process.stdin.flush()
                due += len(block) / lines_per_s
                time.sleep(max(0.0, due - time.monotonic()))
            process.stdin.close()
            process.wait(timeout=60)


def run(
    folder: Path, size: BenchSize, say: Say, only: Sequence[str] = (), guarantee: str = "exactly-once"
) -> dict[str, Any]:
    """Every figure of the bench; see `driftwood bench --help`.

    Args:
        folder: for the model.
        size: how much is read.
        say: takes one line of progress.
        only: names of parts: speed, services, sessions, memory, latency, detectors; all if empty.
        guarantee: of the job's Kafka sinks.
    """

    def wanted(part: str) -> bool:
        return not only or part in only

    params = BenchParams(lines=size.floor_lines)
    figures: dict[str, Any] = {}
    if wanted("detectors"):  # in this process, before others keep its cores busy
        figures |= detector_figures(size.detector_lines, size.train_lines, say)
    if set(only) == {"detectors"}:
        return figures
    with Bench(folder, size, say, guarantee) as bench:
        model = bench.train(params)
        figures["templates"] = params.templates
        figures["novel_window_ratio"] = novel_window_ratio(replace(params, lines=200_000), after=100_000)
        lines = bench.load("bench", bench_lines(params))
        say("warming up: all runs share one TaskManager, whose compiler needs a minute")
        bench.run_job("bench", size.job_lines, model)
        job = bench.run_job("bench", size.job_lines, model)
        figures |= {"lines_per_s": job.lines_per_s, "memory_mb": job.memory, "guarantee": guarantee}
        if wanted("speed"):
            floor = bench.run_yardstick("floor", "bench", lines, model)
            identity = bench.run_yardstick("identity", "bench", lines, model)
            source = bench.run_yardstick("source", "bench", lines, model)
            one = bench.run_yardstick("per_record", "bench", size.per_record_lines, model)
            figures |= {
                "floor_lines_per_s": floor.lines_per_s,
                "identity_lines_per_s": identity.lines_per_s,
                "source_lines_per_s": source.lines_per_s,
                "per_record_lines_per_s": one.lines_per_s,
                "ratio_floor": job.lines_per_s / floor.lines_per_s,
                "ratio_identity": job.lines_per_s / identity.lines_per_s,
                "ratio_source": job.lines_per_s / source.lines_per_s,
                "ratio_per_record": job.lines_per_s / one.lines_per_s,
            }
        for part, many in (
            ("services", replace(params, lines=size.job_lines, services=1_000)),
            ("sessions", replace(params, lines=size.job_lines, open_sessions=20_000)),
        ):
            if wanted(part):
                count = bench.load(part, bench_lines(many))
                rate = bench.run_job(part, count, model)
                name = "ratio_1000_services" if part == "services" else "ratio_20000_sessions"
                figures[name] = rate.lines_per_s / job.lines_per_s
        if wanted("memory"):
            growing = replace(params, lines=size.memory_lines, random_ratio=_RANDOM)
            rate = bench.run_job("memory", bench.load("memory", bench_lines(growing)), model, timeout_s=3_600)
            figures |= {"memory_lines": rate.lines, "memory_slope": rate.slope, "memory_growing_mb": rate.memory}
        if wanted("latency"):
            slow = bench.latency(model, params, 100.0)
            fast = bench.latency(model, params, job.lines_per_s / 2)
            committed = bench.latency(model, params, 100.0, "read_committed")
            figures |= {
                "p50_ms": float(np.percentile(slow, 50)),
                "p99_ms": float(np.percentile(fast, 99)),
                "p50_half_rate_ms": float(np.percentile(fast, 50)),
                "p99_committed_ms": float(np.percentile(committed, 99)),
            }
    return figures
