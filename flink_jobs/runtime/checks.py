"""`./submit.sh test`: formatting, lint, types and every layer of tests, in that order; the first failure ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from flink_jobs.runtime import java
from flink_jobs.runtime.environment import ROOT

LAYERS = ("unit", "operators", "engine", "e2e")
QUICK = ("unit", "operators")


def commands(layers: Sequence[str], extra: Sequence[str]) -> list[list[str]]:
    """What is run, one after the other; pytest comes last, so its closing line is the last that is printed."""
    tests = [f"tests/{layer}" for layer in layers]
    return [
        [sys.executable, "-m", "ruff", "format", "--check", "--quiet", "."],
        [sys.executable, "-m", "ruff", "check", "--quiet", "."],
        [sys.executable, "-m", "mypy", "--no-error-summary"],
        # One run over all layers: one closing line. No cache is written: a run depends on nothing that was before.
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "--every-layer", *tests, *extra],
    ]


def main(arguments: Sequence[str]) -> int:
    """Runs the checks; returns the exit status of the first that fails."""
    quick = "--quick" in arguments
    extra = [argument for argument in arguments if argument not in {"--quick", "--"}]
    java.prepare()
    # The core computes on one thread a worker; on a small machine more only get in each other's way.
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    for command in commands(QUICK if quick else LAYERS, extra):
        print(f"$ {' '.join(['python', *command[1:]])}", flush=True)
        status = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        if status:
            return status
    return 0
