"""The job on a log that grows and is rotated under it: one run on the mini-cluster, ended by the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from flink_jobs import job
from flink_jobs.runtime.processes import free_ports, tail
from flink_jobs.runtime.rest import FlinkRest
from flink_jobs.settings import load
from models.artefact import save
from models.datasets import to_batches
from models.evaluate import score_through_core
from models.fitting import FitParams
from models.sample.shop import ShopParams, generate
from models.train import TrainParams, train

NO_RECORDS = [b"", b"[1, 2, 3]"]


@dataclass
class Writer:
    """A service that logs, and logrotate."""

    log: Path
    written: int = 0

    def write(self, lines: list[bytes]) -> None:
        with self.log.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        self.written += len(lines)

    def rotate(self, before: bytes, lines: list[bytes]) -> None:
        """app.log → app.log.1; the service ends the line it was at in the old file, then opens the new one."""
        with self.log.open("ab", buffering=0) as old:
            old.write(before[:20])
            self._shift()
            self.log.rename(f"{self.log}.1")
            time.sleep(1)
            old.write(before[20:] + b"\n")
        self.written += 1
        self.write(lines)

    def copy_and_truncate(self) -> None:
        self._shift()
        shutil.copyfile(self.log, f"{self.log}.1")
        os.truncate(self.log, 0)

    def _shift(self) -> None:
        for number in range(9, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.log}.{number}").rename(f"{self.log}.{number + 1}")


@dataclass(frozen=True)
class Results:
    """What the job has written up to now."""

    folder: Path

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [orjson.loads(line) for line in whole.splitlines()]

    def accounted(self) -> Counter[int]:
        """How often each line was scored or rejected."""
        count: Counter[int] = Counter()
        for step in self.read("verdicts"):
            for account in step["accounts"]:
                for first, last in account["scored"]:
                    count.update(range(first, last + 1))
            count.update(offset for _, _, offset, _ in step["rejected"])
        return count

    def wait_for(self, writer: Writer) -> float:
        """Waits until every line written is accounted for; how long that took."""
        began = time.monotonic()
        FlinkRest.until(lambda: len(self.accounted()) >= writer.written, 120, f"{writer.written} lines")
        return time.monotonic() - began


@contextlib.contextmanager
def running(rest_port: int, out: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """`driftwood run` until the end of the block; in a session of its own, so that Java and the workers end with it."""
    command = [sys.executable, "-m", "flink_jobs.cli", "run", "--web-port", str(rest_port), *map(str, arguments)]
    with out.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    except BaseException:
        print(tail(out, 60))
        raise
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


#: The topic is the path, and so is part of the id; a template's wording depends on the lines that came with a line.
_OTHER = {"anomaly_id", "source", "ts", "template", "parameters", "explanation", "evidence"}


def _essence(anomalies: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int, str], dict[str, Any]]:
    """What must be equal to a score without Flink; of the id, the line that it names."""
    anomalies = list(anomalies)
    first = {a["anomaly_id"]: a["source"]["offset"] for a in anomalies if not a["revision"]}
    return {
        (a["source"]["offset"], a["source"]["index"], a["kind"]): {k: v for k, v in a.items() if k not in _OTHER}
        | {
            "first": first[a["anomaly_id"]],
            "pieces": [(piece["kind"], piece["template_id"], piece["weight"]) for piece in a["evidence"]],
        }
        for a in anomalies
    }


@pytest.fixture
def lines() -> tuple[list[bytes], list[bytes]]:
    """Lines to learn from, and others to watch with some that are no records."""
    sample = list(generate(ShopParams(requests=600, seed=5)))
    watched = [line.value for line in sample if not line.is_learning]
    return [line.value for line in sample if line.is_learning], [*watched[:40], *NO_RECORDS, *watched[40:]]


def test_a_growing_log_is_read_once_through_rotations_and_a_restart(lines, tmp_path) -> None:
    learned, watched = lines
    detectors = ("deeplog", "novelty", "ngram", "count", "frequency", "workflow")
    fit = FitParams(hidden=16, epochs=1, min_steps=200, max_steps=200, learning_rate=2e-2)
    artefact = train(to_batches(learned), None, TrainParams(detectors=detectors, fit=fit), default=True).artefacts[
        "default"
    ]
    strict = replace(
        artefact, calibration=replace(artefact.calibration, days=1_000.0)
    )  # tells of nearly all that is odd
    save(strict, tmp_path / "models")
    expected = _essence(score_through_core(watched, {"default": strict}, *job.core_params(load())))
    assert len(expected) > 30
    assert any(anomaly["revision"] for anomaly in expected.values())

    (tmp_path / "logs").mkdir()
    writer, results = Writer(tmp_path / "logs" / "shop.log"), Results(tmp_path / "out")
    port = free_ports(1)[0]
    rest = FlinkRest(f"http://localhost:{port}")
    quarter = len(watched) // 4
    source = f"file:{writer.log}?follow=1"
    sink = f"file:{results.folder}/anomalies.jsonl?verdicts={results.folder}/verdicts.jsonl"
    options = ("--source", source, "--sink", sink, "--model", tmp_path / "models", "--set", "checkpoint_interval_s=1")
    with running(port, tmp_path / "job.txt", *options, "--parallelism", 1) as process:
        writer.write(watched[:quarter])
        results.wait_for(writer)
        (number,) = rest.jobs()

        rotated = watched[quarter : 2 * quarter]
        writer.rotate(rotated[0], rotated[1:-1])
        results.wait_for(writer)
        time.sleep(1)  # the last writes are over, so nothing is waited for but this line
        writer.write(rotated[-1:])
        assert results.wait_for(writer) < 5, "0.3 s with nothing else to do"

        rest.wait_for_checkpoints(number)
        writer.write(watched[2 * quarter : 2 * quarter + 20])  # some of it is after the checkpoint
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "pyflink.fn_execution.beam.beam_boot" in child.cmdline()
        ]
        assert workers
        for worker in workers:
            worker.kill()
        rest_of_quarter = watched[2 * quarter + 20 : 3 * quarter]
        writer.rotate(rest_of_quarter[0], rest_of_quarter[1:30])
        writer.rotate(rest_of_quarter[30], rest_of_quarter[31:])  # twice, while nobody looks
        results.wait_for(writer)
        assert rest.restarts(number) >= 1

        writer.copy_and_truncate()
        writer.write(watched[3 * quarter :])
        results.wait_for(writer)
        rest.wait_for_checkpoints(number)

    assert set(results.accounted()) == set(range(len(watched)))
    assert set(results.accounted().values()) == {1}
    anomalies = results.read("anomalies")
    assert len({(a["anomaly_id"], a["revision"]) for a in anomalies}) == len(anomalies)
    assert _essence(anomalies) == expected
    assert {a["source"]["topic"] for a in anomalies} == {str(writer.log)}
    assert [reject["offset"] for reject in results.read("logs-rejected")] == [40, 41]
    templates = [(entry["service"], entry["template_id"]) for entry in results.read("templates")]
    assert set(templates) >= {(a["service"], a["template_id"]) for a in anomalies}
