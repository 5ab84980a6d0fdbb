"""A real Loki server on localhost for end-to-end tests, from a binary that is built once (.ci/loki/build.sh)."""

from __future__ import annotations

import http.client
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from flink_jobs.runtime.jars import cache_folder
from flink_jobs.runtime.processes import LOCALHOST, Service, free_ports

MISSING = "no Loki: set LOKI_BIN to its binary or LOKI_URL to a running server, or build it once with .ci/loki/build.sh"


def loki_binary() -> Path | None:
    """The Loki binary: LOKI_BIN, else the newest in the cache folder; None if there is none."""
    named = os.environ.get("LOKI_BIN")
    if named:
        return Path(named)
    built = [path for path in (cache_folder() / "loki").glob("loki-v*") if os.access(path, os.X_OK)]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def settings(folder: Path, http_port: int, grpc_port: int) -> dict[str, Any]:
    """Loki's configuration: one process, one folder, nothing beyond localhost, no waiting."""
    return {
        "auth_enabled": False,
        "analytics": {"reporting_enabled": False},
        "server": {
            "http_listen_address": LOCALHOST,
            "http_listen_port": http_port,
            "grpc_listen_address": LOCALHOST,
            "grpc_listen_port": grpc_port,
            "log_level": "warn",
        },
        "common": {
            "instance_addr": LOCALHOST,
            "path_prefix": str(folder / "data"),
            "replication_factor": 1,
            "ring": {"instance_addr": LOCALHOST, "kvstore": {"store": "inmemory"}},
            "storage": {
                "filesystem": {"chunks_directory": str(folder / "chunks"), "rules_directory": str(folder / "rules")}
            },
        },
        "ingester": {
            # Ready at once and gone at once; the defaults wait for other members of a ring.
            "lifecycler": {"min_ready_duration": "0s", "final_sleep": "0s", "join_after": "0s"},
            # Lines of any age are asked for here, not only those of the last three hours: nothing is moved elsewhere.
            "query_store_max_look_back_period": "87600h",
            "wal": {"enabled": True, "dir": str(folder / "wal")},
        },
        "schema_config": {
            "configs": [
                {
                    "from": "2020-01-01",
                    "store": "tsdb",
                    "object_store": "filesystem",
                    # v13 is the first schema with structured metadata.
                    "schema": "v13",
                    "index": {"prefix": "index_", "period": "24h"},
                }
            ]
        },
        "limits_config": {
            "allow_structured_metadata": True,
            # Data sets and samples carry the time of their making.
            "reject_old_samples": False,
            "volume_enabled": True,
        },
        # The query path finds its own scheduler at the first look; the default looks every 10 s.
        "frontend": {"scheduler_dns_lookup_period": "200ms"},
        "frontend_worker": {"dns_lookup_duration": "200ms"},
    }


class LokiServer(Service):
    """A real single-process Loki; what was accepted survives its kill and restart (write-ahead log)."""

    name = "loki"

    def __init__(self, folder: Path | None = None, binary: Path | None = None) -> None:
        super().__init__(folder)
        self.binary = binary or loki_binary()
        self.port, self._grpc_port = free_ports(2)

    @property
    def url(self) -> str:
        """The address for clients, without a path."""
        return f"http://{LOCALHOST}:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        config = self.folder / "loki.yaml"
        config.write_text(yaml.safe_dump(settings(self.folder, self.port, self._grpc_port)), encoding="utf-8")
        return [self.binary or "loki", f"-config.file={config}"]

    @override
    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=2)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
