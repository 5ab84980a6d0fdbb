"""The words of submit.sh, once the environment is there: test, run, cluster; all others go to `driftwood`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from models.errors import DriftwoodError

RUN_HELP = """\
Submits the job to a Flink cluster. Options that are not listed here are the job's own: driftwood run --help.

  ./submit.sh run --source kafka://localhost:9092/logs --sink kafka://localhost:9092/anomalies
      on the cluster of ./submit.sh cluster start
  ./submit.sh run --jobmanager flink.example:8081 --python /opt/driftwood/bin/python --source ...
      on another cluster, with the interpreter that its TaskManagers have
  ./submit.sh run --target local --source file:app.log
      on this machine alone, without a cluster
"""


def _driftwood(arguments: Sequence[str]) -> NoReturn:
    """Becomes the `driftwood` command."""
    from flink_jobs.runtime import java

    java.prepare()
    program = Path(sys.executable).with_name("driftwood")
    sys.stdout.flush()
    os.execv(program, [str(program), *arguments])


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "./submit.sh run",
        description=RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--target", default="remote", help="local, remote (default), or any target of `flink run -t`")
    parser.add_argument("--jobmanager", metavar="HOST:PORT", help="REST address of the cluster, for the target remote")
    parser.add_argument("-p", "--parallelism", type=int, help="how many slots the job takes")
    parser.add_argument("-s", "--savepoint", metavar="PATH", help="savepoint or retained checkpoint to begin from")
    parser.add_argument(
        "--allow-non-restored-state", action="store_true", help="skip state that has no operator any more"
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter on the TaskManagers; this .venv's by default")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="zip or tar.gz with a Python environment to ship")
    parser.add_argument(
        "-D", dest="options", action="append", default=[], metavar="KEY=VALUE", help="Flink configuration"
    )
    parser.add_argument("--attached", action="store_true", help="wait until the job ends")
    parser.add_argument("--dry-run", action="store_true", help="print the command instead of running it")
    return parser


def _run(arguments: Sequence[str]) -> int:
    options, job = _run_parser().parse_known_args(arguments)
    if options.target == "local":
        parallelism = ["--parallelism", str(options.parallelism)] if options.parallelism else []
        savepoint = ["--savepoint", options.savepoint] if options.savepoint else []
        _driftwood(["run", *job, *parallelism, *savepoint])
    from flink_jobs.runtime import cluster, submit

    ours = cluster.Cluster.attach() if options.target == "remote" and not options.jobmanager else None
    address = options.jobmanager
    if ours:
        address = f"localhost:{ours.port}"
    elif options.target == "remote" and not address:
        # Printing the command needs no cluster; running it does.
        address = "localhost:8081" if options.dry_run else f"localhost:{cluster.running().port}"
    python = options.python or ("bin/python" if options.archive else sys.executable)
    submission = submit.Submission(
        arguments=job,
        target=options.target,
        jobmanager=address,
        parallelism=options.parallelism,
        savepoint=options.savepoint,
        allow_non_restored_state=options.allow_non_restored_state,
        attached=options.attached,
        python=python,
        archive=options.archive,
        connector=ours is None,
        options=dict(option.partition("=")[::2] for option in options.options),
    )
    if options.dry_run:
        code = submit.code_archive()
        print(shlex.join(submission.command(code)))
        return 0
    env = ours.env() if ours else submit.client_env()
    job_id = submit.run(submission, env, timeout_s=None if options.attached else 600)
    print(f"job {job_id} submitted" + (f": http://{address}/#/job/{job_id}/overview" if address else ""))
    return 0


def _cluster(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("./submit.sh cluster", description="A standalone Flink cluster on this machine.")
    parser.add_argument("word", choices=("start", "stop", "status"))
    parser.add_argument("--taskmanagers", type=int, default=1, help="how many to start (default 1)")
    parser.add_argument("--slots", type=int, default=max(2, os.cpu_count() or 2), help="of each (default: one a CPU)")
    parser.add_argument("--port", type=int, default=8081, help="of the web UI (default 8081)")
    options = parser.parse_args(arguments)
    from flink_jobs.runtime import cluster

    found = cluster.Cluster.attach()
    if options.word == "start":
        if found:
            print(f"already running: {found.url}")
            return 0
        started = cluster.Cluster(
            cluster.DEFAULT_FOLDER, taskmanagers=options.taskmanagers, slots=options.slots, port=options.port
        ).start()
        print(
            f"Flink is running: {started.url}  ({options.taskmanagers * options.slots} slots; logs in {started.folder}/log)"
        )
        return 0
    if found is None:
        print("not running")
        return 0 if options.word == "stop" else 1
    if options.word == "stop":
        found.stop()
        print("stopped; checkpoints and savepoints are kept in", found.folder)
        return 0
    print(f"running: {found.url}  slots {found.rest.slots()}")
    for job, state in found.rest.jobs().items():
        print(f"  {job}  {state}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs one word; returns the exit status."""
    word, rest = arguments[0], arguments[1:]
    try:
        if word == "test":
            from flink_jobs.runtime import checks

            return checks.main(rest)
        if word == "run":
            return _run(rest)
        if word == "cluster":
            return _cluster(rest)
        _driftwood(arguments)
    except DriftwoodError as error:
        print(f"driftwood: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
