"""Starts Flink in a container by the PyFlink package's own scripts: a JobManager that brings the job with it, or a TaskManager.

Configuration: flink-conf/, over it the keys in FLINK_PROPERTIES (YAML, as `key: value` lines), over it where Python is.
A JobManager that comes back goes on from the newest checkpoint of its job, which it finds by itself; `--fresh` begins without.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pyarrow import fs

from flink_jobs.runtime.cluster import CONF, flink_home, render
from flink_jobs.runtime.environment import ROOT

#: The job's id, in every run the same: its checkpoints are found again by it.
JOB_ID = "d41f" * 8
_CHECKPOINT = re.compile(r"/chk-(\d+)/_metadata$")


def properties(text: str) -> dict[str, Any]:
    """The keys of FLINK_PROPERTIES.

    >>> properties("s3.path.style.access: true")
    {'s3.path.style.access': True}
    """
    keys = yaml.safe_load(text) or {}
    if not isinstance(keys, dict) or any(isinstance(value, dict | list) for value in keys.values()):
        sys.exit(
            "FLINK_PROPERTIES is no list of `key: value` lines; write one Flink key a line, such as s3.endpoint: http://minio:9000"
        )
    return keys


def configuration(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that differ from flink-conf/config.yaml, the metrics reporter of that file among them, which only containers open."""
    all_keys: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    reporter = {key: value for key, value in all_keys.items() if key.startswith("metrics.reporter.")}
    # Of several TaskManagers each has an address of its own.
    own = {"taskmanager.host": socket.gethostbyname(socket.gethostname())}
    python = {"python.executable": sys.executable, "python.client.executable": sys.executable}
    return {**reporter, **own, **extra, **python}


def file_system(uri: str, keys: Mapping[str, Any]) -> tuple[fs.FileSystem, str]:
    """Where checkpoints are: the file system and the path in it."""
    scheme, _, path = uri.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), path
    if scheme not in ("s3", "s3a"):
        sys.exit(
            f"execution.checkpointing.dir is {uri!r}; it must begin with s3:// or file:// so that the newest checkpoint can be found"
        )
    endpoint = keys.get("s3.endpoint")
    # Without an endpoint it is AWS; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the machine's role.
    options: dict[str, Any] = {}
    if endpoint:
        protocol, _, host = str(endpoint).rpartition("://")
        options = {"endpoint_override": host, "scheme": protocol or "https"}
    return fs.S3FileSystem(**options), path


def newest_checkpoint(uri: str, keys: Mapping[str, Any]) -> str | None:
    """The newest complete checkpoint of the job under a checkpoint folder; None where there is none."""
    files, path = file_system(uri, keys)
    selector = fs.FileSelector(f"{path.rstrip('/')}/{JOB_ID}", recursive=True, allow_not_found=True)
    numbered = [
        (int(found[1]), info.path.removesuffix("/_metadata"))
        for info in files.get_file_info(selector)
        if info.size and (found := _CHECKPOINT.search(info.path))
    ]
    return f"{uri.partition('://')[0]}://{max(numbered)[1]}" if numbered else None


def jobmanager(arguments: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """The command of a JobManager that runs the job."""
    is_fresh = "--fresh" in arguments
    checkpoints = keys.get("execution.checkpointing.dir")
    from_checkpoint = None if is_fresh or not checkpoints else newest_checkpoint(str(checkpoints), keys)
    if from_checkpoint:
        print(f"the job goes on from {from_checkpoint}", file=sys.stderr, flush=True)
    else:
        print(
            "the job begins without state" + ("" if is_fresh else ": there is no checkpoint yet"),
            file=sys.stderr,
            flush=True,
        )
    return [
        str(flink_home() / "bin" / "standalone-job.sh"),
        "start-foreground",
        *("--job-classname", "org.apache.flink.client.python.PythonDriver", "--job-id", JOB_ID),
        *(("--fromSavepoint", from_checkpoint) if from_checkpoint else ()),
        # Flink's options come before the job's own.
        *("-pyclientexec", sys.executable, "-pyexec", sys.executable),
        *("-py", str(ROOT / "flink_jobs" / "main.py")),
        *(argument for argument in arguments if argument != "--fresh"),
    ]


def healthy(url: str) -> bool:
    """True while the JobManager at `url` has its job running."""
    try:
        with urllib.request.urlopen(f"{url}/jobs", timeout=4) as answer:
            return any(job["status"] == "RUNNING" for job in json.load(answer)["jobs"])
    except (urllib.error.URLError, OSError, ValueError):
        return False


def main(words: Sequence[str]) -> None:
    """Becomes the program that is asked for."""
    word, *arguments = words
    keys = configuration(properties(os.environ.get("FLINK_PROPERTIES", "")))
    if word == "healthy":
        sys.exit(not healthy(f"http://localhost:{keys.get('rest.port', 8081)}"))
    conf = render(Path(tempfile.mkdtemp(prefix="flink-")), keys)
    os.environ["FLINK_CONF_DIR"] = str(conf)
    os.environ["FLINK_PID_DIR"] = str(conf)
    Path(os.environ.setdefault("FLINK_LOG_DIR", str(conf / "log"))).mkdir(parents=True, exist_ok=True)
    if word == "jobmanager":
        command = jobmanager(arguments, keys)
    else:
        command = [str(flink_home() / "bin" / "taskmanager.sh"), "start-foreground", *arguments]
    sys.stdout.flush()
    os.execvp("bash", ["bash", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
