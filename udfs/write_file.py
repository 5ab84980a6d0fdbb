"""Anomalies to a file, one JSON object a line: the sink for use without a broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
from pyflink.datastream import ProcessFunction, RuntimeContext

from udfs.deliver import element_bytes


class WriteFileFn(ProcessFunction):
    """Appends each anomaly to a file, once: after a restart, lines that are there already are not written again.

    State: none in Flink; the file itself tells which (id, revision) it holds, and a torn last line is cut off when it is opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self, runtime_context: RuntimeContext) -> None:
        """Read which anomalies are there, cut off a torn line, and open the file for appending."""
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._written: set[tuple[str, int]] = set()
        whole = 0
        if path.exists():
            with path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    self._written.add(_identity(line))
        self._file: BinaryIO = path.open("ab")
        os.ftruncate(self._file.fileno(), whole)

    def process_element(self, value: bytes, ctx: ProcessFunction.Context) -> Iterator[bytes]:
        """Append the batch's anomalies and flush them."""
        for line in element_bytes(value).split(b"\n"):
            identity = _identity(line)
            if identity not in self._written:
                self._written.add(identity)
                self._file.write(line + b"\n")
        self._file.flush()
        yield from ()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _identity(line: bytes) -> tuple[str, int]:
    anomaly = orjson.loads(line)
    return anomaly["anomaly_id"], anomaly["revision"]
