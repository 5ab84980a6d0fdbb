"""A standalone Flink cluster on this machine: one JobManager, any number of TaskManagers, each a process of its own.

It is started by the PyFlink package's own scripts in the foreground, so each process is known by its id and can be
killed and replaced. All its files are in one folder:
```
conf/         flink-conf/ of the checkout with this machine's ports and folders
lib/          links to Flink's and PyFlink's libraries and the Kafka connector
log/          what the processes log; the web UI shows the same
checkpoints/  savepoints/  tmp/
cluster.json  ids of the processes, for a later `cluster stop`
```
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from flink_jobs.runtime import jars, java
from flink_jobs.runtime.environment import ROOT
from flink_jobs.runtime.processes import LOCALHOST, Process, ServiceError, free_ports
from flink_jobs.runtime.rest import FlinkRest

CONF = ROOT / "flink-conf"
DEFAULT_FOLDER = ROOT / ".cache" / "cluster"
# Marks every process of a cluster, the Python workers too: they inherit it.
MARK = "DRIFTWOOD_CLUSTER"


def flink_home() -> Path:
    """The Flink distribution inside the PyFlink package."""
    # Found, not imported: the import takes a second.
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise ServiceError("PyFlink is not installed here; run ./submit.sh, which completes .venv/.")
    return Path(spec.origin).parent


def configuration(overrides: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The keys of flink-conf/config.yaml as Flink reads them, without the reporter, which cannot be kept to localhost."""
    keys = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    kept = {key: value for key, value in keys.items() if not key.startswith("metrics.reporter.")}
    merged = {**kept, **(overrides or {})}
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in merged.items()}


def render(folder: Path, overrides: Mapping[str, Any]) -> Path:
    """Writes a configuration folder for Flink's scripts: config.yaml and the logging settings."""
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "config.yaml").write_text(yaml.safe_dump(configuration(overrides), width=10_000), encoding="utf-8")
    for logging in CONF.glob("log4j-*.properties"):
        shutil.copy(logging, conf)
    return conf


class Cluster:
    """A standalone cluster in a folder; used as a context manager it starts and stops, and removes a temporary folder."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        taskmanagers: int = 1,
        slots: int = 2,
        port: int | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        """Describes a cluster; nothing runs yet.

        Args:
            folder: where its files are; a temporary folder if not given.
            taskmanagers: how many to start.
            slots: of each TaskManager.
            port: of the web UI and REST; a free one if not given.
            overrides: configuration keys that differ from flink-conf/config.yaml.
        """
        self._owned = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="driftwood-flink-")) if folder is None else folder.absolute()
        self.wanted = taskmanagers
        self.slots = slots
        self.port = port or free_ports(1)[0]
        self.overrides = dict(overrides or {})
        self.jobmanager: Process | None = None
        self.taskmanagers: list[Process] = []
        self._started = 0

    @property
    def url(self) -> str:
        """The address of the web UI and of REST."""
        return f"http://{LOCALHOST}:{self.port}"

    @property
    def rest(self) -> FlinkRest:
        """The REST interface."""
        return FlinkRest(self.url)

    @property
    def savepoints(self) -> str:
        """The folder for savepoints, as a URI."""
        return (self.folder / "savepoints").as_uri()

    def env(self) -> dict[str, str]:
        """The environment for Flink's scripts: Java, Python, and where this cluster's files are."""
        env = dict(os.environ)
        java.prepare(env)
        env |= {
            MARK: str(self.folder),
            "FLINK_CONF_DIR": str(self.folder / "conf"),
            "FLINK_LIB_DIR": str(self.folder / "lib"),
            "FLINK_LOG_DIR": str(self.folder / "log"),
            "FLINK_PID_DIR": str(self.folder / "tmp"),
            "FLINK_IDENT_STRING": "driftwood",
            "HOSTNAME": "localhost",
            # The log file has everything; what the process prints is kept for errors.
            "JVM_ARGS": "-Dconsole.log.level=WARN",
        }
        return env

    def _prepare(self) -> None:
        rpc = free_ports(1)[0]
        for name in ("log", "tmp", "lib", "checkpoints", "savepoints"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # PyFlink's own jar too: one that comes with each job leaves 30 MB of classes behind (flink-conf/config.yaml).
        python = (flink_home() / "opt").glob("flink-python-*.jar")
        for jar in [*(flink_home() / "lib").glob("*.jar"), *python, jars.connector_jar()]:
            link = self.folder / "lib" / jar.name
            link.unlink(missing_ok=True)
            link.symlink_to(jar)
        machine = {
            "jobmanager.rpc.port": rpc,
            "rest.port": self.port,
            "rest.bind-port": self.port,
            # REST tells programs that wait for a job what is at most this old; by default it is 3 s.
            "web.refresh-interval": 500,
            "taskmanager.numberOfTaskSlots": self.slots,
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.checkpointing.savepoint-dir": self.savepoints,
            "io.tmp.dirs": self.folder / "tmp",
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
        }
        render(self.folder, machine | self.overrides)

    def _launch(self, script: str, name: str, *options: str) -> Process:
        command = ["bash", str(flink_home() / "bin" / script), "start-foreground", *options]
        return Process.start(name, command, self.folder / "log", self.env())

    def start(self) -> Self:
        """Starts the JobManager and the TaskManagers; returns when every slot is registered."""
        if self.jobmanager is not None and self.jobmanager.alive:
            return self
        self._prepare()
        try:
            self.jobmanager = self._launch("jobmanager.sh", "jobmanager")
            for _ in range(self.wanted):
                self._launch_taskmanager()
            self.jobmanager.until(self.rest.answers, 120, f"an answer at {self.url}")
            self.wait_for_slots(self.wanted * self.slots)
        except BaseException:
            self.stop()
            raise
        return self

    def _launch_taskmanager(self) -> Process:
        self._started += 1
        name = f"taskmanager-{self._started}"
        process = self._launch("taskmanager.sh", name, "-D", f"taskmanager.resource-id={name}")
        self.taskmanagers.append(process)
        self._save()
        return process

    def start_taskmanager(self) -> Process:
        """Adds one TaskManager and waits until its slots are registered."""
        process = self._launch_taskmanager()
        # By name, not by the number of slots: those of a killed TaskManager are counted until its loss is noticed.
        process.until(lambda: process.name in self.rest.taskmanagers(), 120, "registration at the JobManager")
        return process

    def taskmanager_of(self, job: str) -> Process:
        """One of the TaskManagers that run tasks of a job."""
        named = self.rest.taskmanagers_of(job)
        return next(process for process in self.taskmanagers if process.name in named)

    def kill_taskmanager(self, process: Process) -> Process:
        """SIGKILL for one TaskManager, as a machine lost; returns the dead one."""
        self.taskmanagers.remove(process)
        process.kill()
        self._save()
        return process

    def wait_for_slots(self, count: int, timeout_s: float = 120) -> None:
        """Waits until at least `count` slots are registered."""
        for process in self.taskmanagers[:1]:
            process.until(lambda: self.rest.slots() >= count, timeout_s, f"{count} registered slots")

    def processes(self) -> list[psutil.Process]:
        """All live processes of this cluster, its Python workers among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [process for process in found if process.pid != os.getpid()]

    def python_workers(self) -> list[psutil.Process]:
        """The Python worker processes of the cluster's tasks, orphans included."""
        workers = []
        for process in self.processes():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if any("pyflink.fn_execution" in part for part in command) and "python" in Path(command[0]).name:
                workers.append(process)
        return workers

    def _save(self) -> None:
        def described(process: Process) -> dict[str, Any]:
            return {"name": process.name, "pid": process.pid, "started": process.started, "log": str(process.log)}

        everything = [process for process in (self.jobmanager, *self.taskmanagers) if process is not None]
        state = {"port": self.port, "slots": self.slots, "processes": [described(process) for process in everything]}
        (self.folder / "cluster.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    @classmethod
    def attach(cls, folder: Path = DEFAULT_FOLDER) -> Self | None:
        """The cluster another program started in `folder`; None if there is none, or if its JobManager is gone."""
        try:
            state = json.loads((folder / "cluster.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        found = cls(folder, slots=state["slots"], port=state["port"])
        for entry in state["processes"]:
            process = Process(entry["name"], entry["pid"], entry["started"], Path(entry["log"]))
            if entry["name"] == "jobmanager":
                found.jobmanager = process
            else:
                found.taskmanagers.append(process)
        if not any(process.alive for process in (found.jobmanager, *found.taskmanagers) if process):
            return None
        return found

    def stop(self) -> None:
        """Ends every process of the cluster, and makes sure that no Python worker is left."""
        for process in [*self.taskmanagers, *([self.jobmanager] if self.jobmanager else [])]:
            process.stop()
        self.taskmanagers, self.jobmanager = [], None
        left = self.processes()
        psutil.wait_procs(left, timeout=10)
        for process in self.processes():
            process.kill()
        (self.folder / "cluster.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except KeyboardInterrupt:
            # After a failure the logs are wanted, after Ctrl-C nobody looks.
            self._remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove()

    def _remove(self) -> None:
        if self._owned:
            shutil.rmtree(self.folder, ignore_errors=True)


def running(folder: Path = DEFAULT_FOLDER) -> Cluster:
    """The cluster of `./submit.sh cluster start`.

    Raises:
        ServiceError: it does not run; with how to start it.
    """
    found = Cluster.attach(folder)
    if found is None:
        raise ServiceError(
            "no cluster is running here. Start one with ./submit.sh cluster start, or name another with --jobmanager "
            "HOST:PORT, or run the job on this machine alone with --target local."
        )
    return found
