"""The job on a mini-cluster of this process, beside other work: start, look, stop."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import psutil

from flink_jobs.settings import Settings
from models.errors import DriftwoodError

_START_S = 120.0
_STOP_S = 30.0
_WORKER = "pyflink.fn_execution.beam.beam_boot"
_NO_CLUSTER = "MiniCluster is not yet running or has already been shut down"
_ENDED = frozenset({"FAILED", "CANCELED", "FINISHED", "SUSPENDED"})


class LocalJob:
    """A job that runs while this process does other things.

    Args:
        settings: the job's settings; checked here.
        folder: for checkpoints and state.
        web_port: of the Flink web UI; a free one if None.

    Raises:
        DriftwoodError: the settings are wrong, or the job does not come up.
    """

    def __init__(self, settings: Settings, folder: Path, web_port: int | None = None) -> None:
        from flink_jobs import job
        from flink_jobs.runtime.processes import free_ports

        job.check(settings)
        folder.mkdir(parents=True, exist_ok=True)
        # Python operators in processes of their own: inside this one they would share its interpreter lock
        os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 - PyFlink reads it in small letters
        port = web_port or free_ports(1)[0]
        self.web_url = f"http://localhost:{port}"
        # A Kafka client's thread that outlives the job by a moment would print a stack trace about its class loader
        conf = {**job.local_conf(folder, web_port=port), "classloader.check-leaked-classloader": "false"}
        # Whoever waits for this job wants to hear of its first failure, not to watch it restart
        conf["restart-strategy.type"] = "none"
        environment = job.build(settings, conf=conf)
        self._client: Any = environment.execute_async(settings.job_name)
        deadline = time.monotonic() + _START_S
        try:
            while self._status() != "RUNNING":
                self.check()
                if time.monotonic() > deadline:
                    raise DriftwoodError(f"the job did not come up within {_START_S:.0f} s; {self.web_url} says why")
                time.sleep(0.2)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Returns if the job runs.

        Raises:
            DriftwoodError: it failed or ended, with the reason.
        """
        status = self._status()
        if status not in _ENDED:
            return
        reason = ""
        try:
            self._client.get_job_execution_result().result()
        except Exception as error:
            causes = [line.strip() for line in str(error).splitlines() if line.startswith("Caused by:")]
            reason = f": {causes[-1] if causes else error}"
        raise DriftwoodError(f"the job has ended ({status.lower()}){reason}")

    def stop(self) -> None:
        """Cancels the job and waits until it and its Python workers are down; a job that has ended is left alone."""
        workers = _workers()
        if self._status() not in _ENDED:
            self._client.cancel().result()
        deadline = time.monotonic() + _STOP_S
        while self._status() not in _ENDED and time.monotonic() < deadline:
            time.sleep(0.1)
        _, alive = psutil.wait_procs(workers, timeout=_STOP_S)
        for worker in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    def _status(self) -> str:
        from py4j.protocol import Py4JJavaError

        try:
            return str(self._client.get_job_status().result().name)
        except Py4JJavaError as error:
            if _NO_CLUSTER in str(error):  # the mini-cluster ends with its job
                return "FINISHED"
            raise


def _workers() -> list[psutil.Process]:
    """The Python worker processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if _WORKER in process.cmdline():
                found.append(process)
    return found
