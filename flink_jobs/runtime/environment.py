"""Sets up `.venv/` of the checkout, then hands the command over to it; submit.sh runs this file with the system's Python.

Nothing but the standard library may be imported here: on a fresh machine there is nothing else.
The set-up is done once for each content of requirements.txt and pyproject.toml; a stamp in `.venv/` says which.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import deque
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (3, 11)
# Measured: the environment with the CUDA build of torch is 6.4 GB; the rest is room for the wheels while they unpack.
NEEDED_BYTES = {"": 9 * 10**9, "cpu": 4 * 10**9}
# torch and what only its CUDA build needs.
TORCH = re.compile(r"^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==", re.MULTILINE)

USAGE = """\
usage: ./submit.sh WORD [options]

  demo                        a broker, the job and a sample with faults, end to end; ends by itself
  test [--quick] [-- ARGS]    formatting, lint, types, then every layer of tests; ARGS go to pytest
  run [options]               submits the job to a cluster with `flink run`; see ./submit.sh run --help
  train DATA --service S --out DIR
                              learns a model from normal logs
  cluster start|stop|status   a standalone Flink cluster on this machine
  evaluate, templates, replay, sample, bench, ...
                              any other word is handed to .venv/bin/driftwood (driftwood --help lists them)

The first start sets up .venv/ in this checkout (Python packages, about 6 GB, and Java if the machine has none).
DRIFTWOOD_TORCH_BACKEND=cpu leaves the CUDA libraries out (about 2 GB); DRIFTWOOD_CACHE names the folder for jars.
"""

_NETWORK = re.compile(
    r"name resolution|name or service not known|dns error|network is unreachable|connection (refused|reset|error|aborted)|"
    r"error sending request|failed to (establish|connect)|could not connect|timed out|timeout|newconnectionerror|"
    r"max retries|from versions: none|proxyerror|tunnel|certificate",
    re.IGNORECASE,
)
_DISK = re.compile(r"no space left|os error 28|disk quota exceeded", re.IGNORECASE)
_HASH = re.compile(r"hash mismatch|do not match the hashes|hashes are required|invalid hash", re.IGNORECASE)


class SetUpError(Exception):
    """The set-up cannot go on; the message says what happened and what to do next."""


def fingerprint(root: Path, backend: str) -> str:
    """The stamp of a finished set-up: what was asked for, and for which folder.

    The folder is part of it because scripts in `.venv/bin` hold its absolute path: a moved checkout is set up again.
    """
    digest = hashlib.sha256(f"{PYTHON} {backend} {root}\n".encode())
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def entries(requirements: str) -> list[str]:
    r"""The entries of a requirements file, each with its hashes; comments are left out.

    >>> entries("# made by make\na==1\n    # via b\nb==2\n")
    ['a==1', 'b==2']
    """
    lines = [line for line in requirements.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return re.findall(r"^\S(?:.*\\\n)*.*$", "\n".join(lines), re.MULTILINE)


def explain(step: str, output: str) -> str:
    """One message for a person from what pip or uv printed last: the likely cause and the next step."""
    tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-12:])
    if _DISK.search(output):
        cause = "the disk is full. Free some space (df -h shows where), then run the same command again."
    elif _HASH.search(output):
        cause = (
            "a downloaded package is not the one that requirements.txt names by hash. Do not use it: check the package "
            "index that this machine is set to (pip config list), then run the same command again."
        )
    elif _NETWORK.search(output):
        cause = (
            "the package index cannot be reached. Check the network, and the proxy or index settings of pip and uv "
            "(HTTPS_PROXY, PIP_INDEX_URL, UV_INDEX_URL), then run the same command again; what is there is kept."
        )
    else:
        cause = "the installer failed. Its last lines are below; remove .venv/ and try again if they do not say why."
    return f"{step}: {cause}\n{tail}"


def run(step: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
    """Runs an installer, shows what it prints, and turns a failure into one clear message."""
    print(f"  {step} ...", file=sys.stderr, flush=True)
    tail: deque[str] = deque(maxlen=60)
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line)
            # Hundreds of lines of "+ package" say nothing; downloads and warnings do.
            if not line.startswith((" + ", " - ", " ~ ")):
                print(f"    {line.rstrip()}", file=sys.stderr, flush=True)
    if process.returncode:
        raise SetUpError(explain(step, "".join(tail)))


def check_space(folder: Path, backend: str) -> None:
    """Stops before the download when the disk cannot hold the environment."""
    needed = NEEDED_BYTES.get(backend, NEEDED_BYTES[""])
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetUpError(
            f"not enough disk space: {free / 1e9:.1f} GB free on the disk of {folder}, {needed / 1e9:.0f} GB needed. "
            "Free some space, or set DRIFTWOOD_TORCH_BACKEND=cpu to leave the CUDA libraries out, then try again."
        )


def usable(folder: Path) -> bool:
    """Whether a virtual environment is there that this Python can go on with: same version, same place, with pip."""
    python, made = folder / "bin" / "python", folder / "pyvenv.cfg"
    if not python.exists() or not made.exists() or str(folder) not in made.read_text(encoding="utf-8"):
        return False
    probe = f"import sys, pip; sys.exit(sys.version_info[:2] != {PYTHON})"
    return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0


def create(folder: Path) -> None:
    """Makes the virtual environment; one that is damaged, moved or of another Python is made anew."""
    if usable(folder):
        return
    try:
        venv.EnvBuilder(clear=True, symlinks=True, with_pip=True).create(folder)
    except (subprocess.CalledProcessError, OSError, SystemExit) as error:
        if _DISK.search(str(error)):
            raise SetUpError(explain("creating .venv", str(error))) from None
        raise SetUpError(
            f"python3.11 cannot create a virtual environment in {folder}: {error}. "
            "On Debian and Ubuntu its package is python3.11-venv; install it, then run the same command again."
        ) from None


def install(root: Path, backend: str) -> None:
    """Installs exactly requirements.txt, every package checked against its hash, and the checkout itself."""
    environment = root / ".venv"
    python, uv = environment / "bin" / "python", environment / "bin" / "uv"
    wanted = entries((root / "requirements.txt").read_text(encoding="utf-8"))
    torch = next((entry.split()[0].rstrip("\\;") for entry in wanted if entry.startswith("torch==")), "")
    # pip needs minutes where uv needs half a minute, so pip installs only uv, and setuptools for the few packages that
    # come as source: built without isolation, they cannot bring a build tool that no hash was checked of.
    first = environment / "first.txt"
    first.write_text(
        "\n".join(entry for entry in wanted if entry.startswith(("uv==", "setuptools=="))) + "\n", encoding="utf-8"
    )
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run("installing uv", [*pip, "--require-hashes", "--no-deps", "-r", first])
    if backend:
        wanted = [entry for entry in wanted if not TORCH.match(entry)]
    chosen = environment / "requirements.txt"
    chosen.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    quiet = {"UV_PYTHON": str(python), "VIRTUAL_ENV": str(environment), "NO_COLOR": "1"}
    run("installing packages", [uv, "pip", "sync", "--require-hashes", "--no-build-isolation", chosen], quiet)
    if backend:
        # A build from another index has other hashes, and none is committed for it.
        run(
            f"installing torch ({backend})",
            [uv, "pip", "install", "--torch-backend", backend, "--no-deps", torch],
            quiet,
        )
    run(
        "installing driftwood",
        [uv, "pip", "install", "--offline", "--no-deps", "--no-build-isolation", "-e", root],
        quiet,
    )


def ensure(root: Path = ROOT) -> Path:
    """The Python of a complete environment, set up first if it is not there or not up to date."""
    backend = os.environ.get("DRIFTWOOD_TORCH_BACKEND", "")
    environment = root / ".venv"
    stamp = environment / "driftwood-setup"
    python = environment / "bin" / "python"
    wanted = fingerprint(root, backend)

    def complete() -> bool:
        return stamp.exists() and stamp.read_text(encoding="utf-8").strip() == wanted and python.exists()

    if complete():
        return python
    # The folder itself is the lock: two starts at once would write into one environment.
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete():
            return python
        print(f"Setting up {environment}: once, a few minutes.", file=sys.stderr, flush=True)
        if not environment.exists():
            check_space(root, backend)
        stamp.unlink(missing_ok=True)
        create(environment)
        install(root, backend)
        stamp.write_text(wanted + "\n", encoding="utf-8")
    finally:
        os.close(lock)
    return python


def main(arguments: list[str]) -> int:
    """Sets up, then becomes `python -m flink_jobs.runtime` of the environment with the same arguments."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(USAGE, end="")
        return 0 if arguments else 2
    if sys.version_info[:2] != PYTHON:
        print(f"Driftwood needs Python 3.11 and this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    try:
        python = ensure()
    except SetUpError as error:
        print(f"\nThe set-up stopped. {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"\nThe set-up stopped. {explain('writing .venv', str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nThe set-up was interrupted; the next start goes on from here.", file=sys.stderr)
        return 130
    sys.stdout.flush()
    os.execv(python, [str(python), "-m", "flink_jobs.runtime", *arguments])
    raise AssertionError("execv does not return")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
