"""Results to files, one JSON object a line: the sink for use without a broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from udfs.state import LENGTH


class WriteFileFn(KeyedProcessFunction):
    """Appends the lines of each element to a file, exactly once, and hands them to the operating system before it returns.

    After a restart the file is cut to its length at the checkpoint, when the first element comes: what was behind it is written again.
    Without a checkpoint only a torn last line is cut off, and of anomalies those are left out that an earlier run wrote.

    State: `LENGTH`.
    """

    def __init__(self, path: str, *, has_anomalies: bool) -> None:
        self._path = Path(path)
        self._has_anomalies = has_anomalies

    def open(self, runtime_context: RuntimeContext) -> None:
        """Get the state; the file is opened with the first element, for only then the state can be read."""
        self._length = runtime_context.get_state(LENGTH)
        self._file: BinaryIO | None = None
        self._earlier: set[tuple[str, int]] = set()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[bytes]:
        """Append the element's lines."""
        if self._file is None:
            self._file = self._opened()
        lines = value.split(b"\n")
        self._file.write(
            b"".join(line + b"\n" for line in lines if not (self._earlier and _identity(line) in self._earlier))
        )
        self._file.flush()
        self._length.update(self._file.tell())
        yield from ()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+b")
        length = self._length.value()
        file.seek(0)
        whole = 0
        for line in file:
            if not line.endswith(b"\n") or (length is not None and whole >= length):
                break
            whole += len(line)
            if self._has_anomalies:
                self._earlier.add(_identity(line))
        os.ftruncate(file.fileno(), whole)
        file.seek(0, os.SEEK_END)
        return file


def _identity(line: bytes) -> tuple[str, int]:
    anomaly = orjson.loads(line)
    return anomaly["anomaly_id"], anomaly["revision"]
