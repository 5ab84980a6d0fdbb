"""Hands the job to a cluster with Flink's own `flink run`: the code, the Python environment, and where to begin.

The code of the checkout travels as a zip file, so workers run what was submitted and not what the checkout has become.
The environment is the interpreter named on every TaskManager (this checkout's .venv on a cluster of this machine, the
image's own in containers), or an archive that Flink distributes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flink_jobs.runtime import cluster, jars, java
from flink_jobs.runtime.environment import ROOT
from flink_jobs.runtime.processes import ServiceError

PACKAGES = ("flink_jobs", "udfs", "models")
ENTRY = "flink_jobs.main"
_JOB_ID = re.compile(r"JobID ([0-9a-f]{32})")


def code_files() -> Iterator[tuple[str, Path]]:
    """Each file of the packages, with its name inside the archive; in a fixed order."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path.relative_to(ROOT).as_posix(), path


def code_archive(folder: Path = ROOT / ".cache" / "code") -> Path:
    """The packages as one zip file named by its content: the same code gives the same bytes."""
    digest = hashlib.sha256()
    files = [(name, path.read_bytes()) for name, path in code_files()]
    for name, data in files:
        digest.update(f"{name} {len(data)}\n".encode() + data)
    archive = folder / f"driftwood-{digest.hexdigest()[:12]}.zip"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, data in files:
                bundle.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        partial.replace(archive)
    return archive


@dataclass(frozen=True)
class Submission:
    """What `flink run` is asked for.

    Attributes:
        arguments: the job's own arguments, as for `driftwood run`.
        entry: the module to run, from the shipped code; or a Python file.
        target: Flink's deployment target: remote, kubernetes-session, kubernetes-application, yarn-application, ...
        jobmanager: `host:port` of the REST interface, for the target remote.
        parallelism: of operators that say nothing else; the cluster's default if None.
        savepoint: the savepoint or retained checkpoint to begin from.
        allow_non_restored_state: begin even if the savepoint has state that the job has no operator for.
        attached: wait until the job ends.
        python: the interpreter on the TaskManagers.
        archive: an archive with an environment; then `python` is a path inside it.
        connector: ship the Kafka connector; not needed where the cluster has it in its lib folder.
        options: further configuration keys for this submission.
    """

    arguments: Sequence[str] = ()
    entry: str | Path = ENTRY
    target: str = "remote"
    jobmanager: str | None = None
    parallelism: int | None = None
    savepoint: str | None = None
    allow_non_restored_state: bool = False
    attached: bool = False
    python: str = sys.executable
    archive: Path | None = None
    connector: bool = True
    options: Mapping[str, str] = field(default_factory=dict)

    def command(self, code: Path) -> list[str]:
        """The command line; Flink's options come first, because all that follows the entry is the job's."""
        line = [str(cluster.flink_home() / "bin" / "flink"), "run", "-t", self.target]
        if self.jobmanager:
            line += ["-m", self.jobmanager]
        if not self.attached:
            line.append("-d")
        if self.parallelism:
            line += ["-p", str(self.parallelism)]
        if self.savepoint:
            line += ["-s", self.savepoint]
        if self.allow_non_restored_state:
            line.append("-n")
        for key, value in self.options.items():
            line.append(f"-D{key}={value}")
        if self.connector:
            line += ["--jarfile", str(jars.connector_jar())]
        line += ["-pyfs", str(code), "-pyclientexec", sys.executable]
        if self.archive:
            line += ["-pyarch", f"{self.archive}#environment", "-pyexec", f"environment/{self.python}"]
        else:
            line += ["-pyexec", self.python]
        line += ["-py", str(self.entry)] if isinstance(self.entry, Path) else ["-pym", self.entry]
        return [*line, *self.arguments]


def client_env(conf: Path = cluster.CONF) -> dict[str, str]:
    """The environment for `flink run` against a cluster that is not ours."""
    env = dict(os.environ)
    java.prepare(env)
    logs = ROOT / ".cache" / "log"
    logs.mkdir(parents=True, exist_ok=True)
    return env | {"FLINK_CONF_DIR": str(conf), "FLINK_LOG_DIR": str(logs), "FLINK_IDENT_STRING": "driftwood"}


def run(submission: Submission, env: Mapping[str, str], *, timeout_s: float | None = 300) -> str:
    """Runs `flink run` and returns the id of the submitted job.

    Raises:
        ServiceError: the submission failed; with the end of what Flink and the job said.
    """
    command = submission.command(code_archive())
    try:
        done = subprocess.run(
            ["bash", *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"flink run did not end within {timeout_s:.0f} s. Command: {shlex.join(command)}") from error
    found = _JOB_ID.search(done.stdout)
    if done.returncode or not found:
        tail = "\n".join(f"    {line}" for line in done.stdout.strip().splitlines()[-40:])
        raise ServiceError(
            f"the job was not submitted (exit status {done.returncode}). Flink and the job said:\n{tail}"
        )
    return found[1]


def submit(
    target: cluster.Cluster,
    arguments: Sequence[str],
    *,
    entry: str | Path = ENTRY,
    parallelism: int | None = None,
    savepoint: str | None = None,
    options: Mapping[str, str] | None = None,
) -> str:
    """Submits a job to a cluster of this machine and returns its id; the job may still be starting."""
    submission = Submission(
        arguments=arguments,
        entry=entry,
        jobmanager=f"localhost:{target.port}",
        parallelism=parallelism,
        savepoint=savepoint,
        connector=False,
        options=options or {},
    )
    return run(submission, target.env())
