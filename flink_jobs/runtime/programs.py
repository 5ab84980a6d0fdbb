"""Driftwood's own programs beside the job, as services on localhost."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from flink_jobs.runtime.processes import LOCALHOST, Service, free_ports


class Program(Service):
    """`driftwood COMMAND …`; it counts as ready as soon as it runs."""

    def __init__(self, command: str, arguments: Sequence[str], folder: Path | None = None) -> None:
        super().__init__(folder)
        self.name = command
        self._arguments = arguments

    @override
    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "flink_jobs.cli", self.name, *self._arguments]

    @override
    def is_ready(self) -> bool:
        return self.alive


class Console(Program):
    """The triage console; ready when it answers."""

    def __init__(self, arguments: Sequence[str], folder: Path | None = None, port: int = 3_000) -> None:
        self.port = port if _is_free(port) else free_ports(1)[0]
        super().__init__("console", ["--port", str(self.port), *arguments], folder)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{LOCALHOST}:{self.port}"

    @override
    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True
