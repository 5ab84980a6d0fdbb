"""How fast a running job reads: the slope of the records it has read, start-up and end left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from flink_jobs.runtime.cluster import Cluster
from models.errors import DriftwoodError

#: Part of a run that counts: before it the JVM compiles and the models load, after it the last batches drain.
STEADY = (0.3, 0.95)
_LEAST_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """What a run read in its steady part.

    Units: `lines_per_s`; `seconds` is the length of the steady part. `memory` is MB at its start and end: resident, by kind of process,
    and the size of the newest checkpoint. `slope` is how much each grew over the second half of the run, as a share of its mean there.
    """

    lines_per_s: float
    seconds: float
    lines: int
    memory: dict[str, tuple[float, float]]
    slope: dict[str, float]


def _source(cluster: Cluster, job: str) -> tuple[str, list[str]]:
    """The vertex that reads, and the names of its counters of records read."""
    vertex = cluster.rest.call(f"/jobs/{job}")["vertices"][0]["id"]
    names = [metric["id"] for metric in cluster.rest.call(f"/jobs/{job}/vertices/{vertex}/subtasks/metrics")]
    wanted = [name for name in names if name.startswith("Source__") and name.endswith(".numRecordsOut")]
    return vertex, wanted


def memory_mb(cluster: Cluster, job: str) -> dict[str, float]:
    """Resident memory of the TaskManagers and of the Python workers, and the state in the newest checkpoint, MB."""
    newest = cluster.rest.call(f"/jobs/{job}/checkpoints").get("latest", {}).get("completed") or {}
    return {
        "state": newest.get("state_size", 0) / 1e6,
        "taskmanager": sum(psutil.Process(process.pid).memory_info().rss for process in cluster.taskmanagers) / 1e6,
        "python": sum(worker.memory_info().rss for worker in cluster.python_workers()) / 1e6,
    }


def samples(cluster: Cluster, job: str, lines: int, timeout_s: float) -> Iterator[tuple[float, int, dict[str, float]]]:
    """(time, records read, memory) a few times a second until all lines are read."""
    deadline = time.monotonic() + timeout_s
    vertex, names = "", []
    while time.monotonic() < deadline:
        if cluster.rest.restarts(job):
            raise DriftwoodError(f"The measured job {job} restarted: {cluster.rest.exceptions(job)[:1]}")
        if not names:
            vertex, names = _source(cluster, job)
        if names:
            found = cluster.rest.call(f"/jobs/{job}/vertices/{vertex}/subtasks/metrics?get={','.join(names)}")
            read = int(max((metric.get("sum", 0) for metric in found), default=0))
            yield time.monotonic(), read, memory_mb(cluster, job)
            if read >= lines:
                return
        time.sleep(0.25)


def measure(
    cluster: Cluster,
    job: str,
    lines: int,
    *,
    timeout_s: float = 600,
    progress: Callable[[int], None] = lambda read: None,
) -> Rate:
    """The steady rate of a job that reads `lines` records.

    Raises:
        DriftwoodError: if the job ended or read too little to tell.
    """
    taken = []
    for sample in samples(cluster, job, lines, timeout_s):
        taken.append(sample)
        progress(sample[1])
    if not taken or taken[-1][1] == 0:
        raise DriftwoodError(
            f"The measured job {job} read nothing; its last failure: {cluster.rest.exceptions(job)[:1]}"
        )
    goal = taken[-1][1]
    steady = [sample for sample in taken if STEADY[0] * goal <= sample[1] <= STEADY[1] * goal]
    if len(steady) < _LEAST_SAMPLES:
        raise DriftwoodError(
            f"Only {len(steady)} samples fell into the steady part of {goal:,} lines: measure more lines."
        )
    at = np.array([sample[0] for sample in steady])
    read = np.array([sample[1] for sample in steady])
    first, last = steady[0][2], steady[-1][2]
    return Rate(
        lines_per_s=float(np.polyfit(at - at[0], read, 1)[0]),
        seconds=float(at[-1] - at[0]),
        lines=goal,
        memory={name: (first[name], last[name]) for name in first},
        slope={name: _slope([sample[2][name] for sample in taken]) for name in first},
    )


def _slope(values: Sequence[float]) -> float:
    """The growth over the second half of some samples, on the line that fits it best, as a share of its mean.

    >>> round(_slope([0, 0, 0, 10, 11, 12]), 3)
    0.182
    """
    half = np.array(values[len(values) // 2 :])
    mean = float(half.mean())
    return float(np.polyfit(np.linspace(0, 1, len(half)), half, 1)[0]) / mean if mean else 0.0
