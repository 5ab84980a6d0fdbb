"""Asks a Flink cluster over its REST interface, and waits for what a job should come to."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from typing import Any

from flink_jobs.runtime.processes import ServiceError

FINAL = frozenset({"FINISHED", "FAILED", "CANCELED"})
#: Characters of a failure in a message.
_LONGEST = 3_000


class FlinkRest:
    """The REST interface of one cluster, with the few calls that submission and tests need."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def call(self, path: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
        """The decoded answer to one request.

        Raises:
            ServiceError: the cluster cannot be reached or refuses; with its own words.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read().decode("utf-8", "replace")[:2000]
            raise ServiceError(f"Flink at {self.url} refused {method} {path}: {error.code} {detail}") from error
        except OSError as error:
            raise ServiceError(f"Flink at {self.url} does not answer: {error}. Is the cluster running?") from error

    def answers(self) -> bool:
        """Whether the cluster answers at all."""
        try:
            self.call("/overview")
        except ServiceError:
            return False
        return True

    def slots(self) -> int:
        """The slots of all registered TaskManagers."""
        return int(self.call("/overview")["slots-total"])

    def taskmanagers(self) -> set[str]:
        """The ids of the registered TaskManagers."""
        return {entry["id"] for entry in self.call("/taskmanagers")["taskmanagers"]}

    def classes_loaded(self) -> dict[str, int]:
        """TaskManager id → classes that its JVM holds; some seconds old, 0 where the figure is not there yet."""
        name = "Status.JVM.ClassLoader.ClassesLoaded"
        found = {each: self.call(f"/taskmanagers/{each}/metrics?get={name}") for each in self.taskmanagers()}
        return {each: int(metrics[0]["value"]) if metrics else 0 for each, metrics in found.items()}

    def jobs(self) -> dict[str, str]:
        """Job id → status, of all jobs the cluster remembers."""
        return {job["id"]: job["status"] for job in self.call("/jobs")["jobs"]}

    def status(self, job: str) -> str:
        """The status of a job; RUNNING only when every task of it runs."""
        answer = self.call(f"/jobs/{job}")
        tasks = {vertex["status"] for vertex in answer["vertices"]}
        return "STARTING" if answer["state"] == "RUNNING" and not tasks <= {"RUNNING", "FINISHED"} else answer["state"]

    def taskmanagers_of(self, job: str) -> set[str]:
        """The ids of the TaskManagers that run tasks of a job."""
        vertices = [vertex["id"] for vertex in self.call(f"/jobs/{job}")["vertices"]]
        answers = [self.call(f"/jobs/{job}/vertices/{vertex}/taskmanagers") for vertex in vertices]
        return {entry["taskmanager-id"] for answer in answers for entry in answer["taskmanagers"]}

    def checkpoints(self, job: str) -> int:
        """The number of completed checkpoints, over all restarts."""
        return int(self.call(f"/jobs/{job}/checkpoints").get("counts", {}).get("completed", 0))

    def checkpoint_began_s(self, job: str) -> float | None:
        """When the checkpoint under way began, in seconds of the clock; None if none is. As old as `web.refresh-interval` allows."""
        history = self.call(f"/jobs/{job}/checkpoints").get("history", [])
        began = [entry["trigger_timestamp"] / 1000 for entry in history if entry["status"] == "IN_PROGRESS"]
        return min(began, default=None)

    def parallelism(self, job: str) -> dict[str, int]:
        """The parallelism of each task of a job, by the names of its operators."""
        return {vertex["name"]: vertex["parallelism"] for vertex in self.call(f"/jobs/{job}")["vertices"]}

    def restarts(self, job: str) -> int:
        """How many times the job was restarted; by the metric, which may be missing for a while, or the failures on record."""
        metrics = self.call(f"/jobs/{job}/metrics?get=numRestarts")
        return max(int(metrics[0]["value"]) if metrics else 0, len(self.exceptions(job)))

    def exceptions(self, job: str) -> list[str]:
        """The stack traces of the job's failures, newest first."""
        entries = self.call(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
        return [entry["stacktrace"] for entry in entries]

    def cancel(self, job: str) -> None:
        """Stops a job at once, without a savepoint; retained checkpoints stay."""
        self.call(f"/jobs/{job}", "PATCH")
        self.wait(job, FINAL)

    def stop_with_savepoint(self, job: str, folder: str, timeout_s: float = 120) -> str:
        """Takes a savepoint into `folder`, ends the job and returns the savepoint's path."""
        trigger = self.call(f"/jobs/{job}/stop", "POST", {"targetDirectory": folder, "drain": False})["request-id"]
        answer: dict[str, Any] = {}

        def done() -> bool:
            answer.update(self.call(f"/jobs/{job}/savepoints/{trigger}"))
            return bool(answer["status"]["id"] == "COMPLETED")

        self.until(done, timeout_s, f"savepoint of job {job}", lambda: self.condition(job))
        if "location" not in answer["operation"]:
            raise ServiceError(f"the savepoint of job {job} failed: {answer['operation'].get('failure-cause')}")
        self.wait(job, FINAL)
        return str(answer["operation"]["location"])

    def wait(self, job: str, wanted: Collection[str] = ("RUNNING",), timeout_s: float = 180) -> str:
        """Waits for one of the wanted states and returns it.

        Raises:
            ServiceError: the job ended in another state, or the time is over; with its state and its last failure.
        """
        state = ""

        def reached() -> bool:
            nonlocal state
            state = self.status(job)
            return state in wanted or state in FINAL

        self.until(reached, timeout_s, f"job {job} in {' or '.join(sorted(wanted))}", lambda: self.condition(job))
        if state not in wanted:
            raise ServiceError(self.condition(job))
        return state

    def wait_for_checkpoints(self, job: str, more: int = 1, timeout_s: float = 120) -> None:
        """Waits until `more` checkpoints have completed from now on."""
        goal = self.checkpoints(job) + more
        what = f"{more} more checkpoints of job {job}"
        self.until(lambda: self.checkpoints(job) >= goal, timeout_s, what, lambda: self.condition(job))

    def condition(self, job: str) -> str:
        """How a job is, in words for an error message: its state, the cluster's free slots, its last failure."""
        overview = self.call("/overview")
        failure = next(iter(self.exceptions(job)), "")
        return (
            f"job {job} is {self.status(job)}; {overview['slots-available']} of the cluster's {overview['slots-total']} slots are "
            f"free. Its last failure: {causes(failure) or 'none'}"
        )

    @staticmethod
    def until(
        holds: Callable[[], bool], timeout_s: float, what: str, condition: Callable[[], str] | None = None
    ) -> None:
        """Polls until `holds`.

        Raises:
            ServiceError: the time is over; names `what`, and says how things are by `condition`.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                so_far = f". Now {condition()}" if condition else ""
                raise ServiceError(f"waited {timeout_s:.0f} s in vain for: {what}{so_far}")
            time.sleep(0.2)


def causes(trace: str) -> str:
    r"""What a Java stack trace says, without its frames; of a long one the end, where the first cause stands.

    >>> causes("a.JobException: recovery is suppressed\n\tat a.B.c(B.java:1)\nCaused by: d.E: no slots\n\t... 4 more")
    'a.JobException: recovery is suppressed\nCaused by: d.E: no slots'
    """
    said = [line for line in trace.splitlines() if not line.startswith(("\tat ", "\t... "))]
    return "\n".join(said)[-_LONGEST:]
