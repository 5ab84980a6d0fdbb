"""Starts a server as a process of its own, waits until it answers, stops it by its id.

A server writes what it prints to `<folder>/<name>.log`; an error shows the end of that file.
Only processes started here are ever signalled: each is known by its id and its start time, so a reused id is not it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from models.errors import DriftwoodError

LOCALHOST = "127.0.0.1"
#: After which a lost interrupt is repeated.
_AGAIN_S = 0.5


class ServiceError(DriftwoodError):
    """A server did not start, did not answer, or is not there; the message ends with the tail of its log."""


def interrupt_on_sigterm() -> None:
    """From now on the first SIGTERM ends this program as Ctrl-C does, so that what it started is stopped.

    Others do not disturb that: supervisors send it to the process and to its group, and again. An interrupt that falls into a
    finaliser, where Python drops exceptions (py4j's work much while a job is built), comes again.
    """
    is_told = False
    report = sys.unraisablehook

    def interrupt(number: int, frame: object) -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            raise KeyboardInterrupt

    def tell_again() -> None:
        nonlocal is_told
        is_told = False
        os.kill(os.getpid(), signal.SIGTERM)

    def dropped(error: sys.UnraisableHookArgs) -> None:
        if not issubclass(error.exc_type, KeyboardInterrupt):
            report(error)
            return
        # Not from here: an exception in this hook would be dropped without a word.
        again = threading.Timer(_AGAIN_S, tell_again)
        again.daemon = True
        again.start()

    signal.signal(signal.SIGTERM, interrupt)
    sys.unraisablehook = dropped


def free_ports(count: int) -> list[int]:
    """Ports of localhost that nothing listens on right now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((LOCALHOST, 0))
        return [opened.getsockname()[1] for opened in sockets]


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log file, indented; a note when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return f"    ({log} is not there)"
    kept = text.strip().splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in kept) or f"    ({log} is empty)"


class Process:
    """One running process: known by id and start time, so that it can be found again by another program."""

    def __init__(self, name: str, pid: int, started: float, log: Path, popen: subprocess.Popen[bytes] | None = None):
        self.name, self.pid, self.started, self.log = name, pid, started, log
        # Kept so that a finished child is reaped; None when another program started it.
        self._popen = popen

    @classmethod
    def start(
        cls, name: str, command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
    ) -> Self:
        """Starts a command in `folder`, in a session of its own: Ctrl-C at the terminal goes to the caller only."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        with log.open("ab") as output:
            try:
                popen = subprocess.Popen(
                    [str(part) for part in command],
                    cwd=folder,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServiceError(f"{name} cannot be started: {error}. Command: {command[0]}") from error
        return cls(name, popen.pid, psutil.Process(popen.pid).create_time(), log, popen)

    @property
    def alive(self) -> bool:
        """Whether the very process that was started still runs."""
        if self._popen is not None:
            return self._popen.poll() is None
        try:
            process = psutil.Process(self.pid)
            # The start time has a resolution of 10 ms.
            return bool(abs(process.create_time() - self.started) < 0.05 and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash: nothing is flushed, nothing is closed."""
        self._signal(signal.SIGKILL)
        self._wait(10)

    def stop(self, timeout_s: float = 15) -> None:
        """SIGTERM, and SIGKILL for what does not end in time."""
        self._signal(signal.SIGTERM)
        if not self._wait(timeout_s):
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def until(self, probe: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Waits until `probe` holds.

        Raises:
            ServiceError: the process ended first, or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not probe():
            if not self.alive:
                raise ServiceError(f"{self.name} ended before {what}. The end of {self.log}:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.name}: no {what} in {timeout_s:.0f} s. The end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(0.05)


class Service:
    """A server on localhost with a folder of its own for data, settings and logs.

    Stopped or killed, it starts again on the same folder and ports. As a context manager it starts and stops; a folder
    that was not given is a temporary one and goes with it.
    """

    name = "service"
    start_timeout_s = 60.0

    def __init__(self, folder: Path | None = None) -> None:
        self._owned = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix=f"driftwood-{self.name}-")) if folder is None else folder.absolute()
        self.process: Process | None = None

    def command(self) -> Sequence[str | Path]:
        """What to run; called at each start, so it may write the settings first."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """The file with all that the server printed."""
        return self.folder / f"{self.name}.log"

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self.process is not None and self.process.alive

    def start(self) -> Self:
        """Starts the server and returns when it answers."""
        if self.alive:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = Process.start(self.name, self.command(), self.folder)
        try:
            self.process.until(self.is_ready, self.start_timeout_s, "an answer")
        except BaseException:
            self.process.stop(5)
            raise
        return self

    def stop(self) -> None:
        """Ends the server in order."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self.process is not None:
            self.process.kill()

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
