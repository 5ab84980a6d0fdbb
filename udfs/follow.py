"""The source for use without a broker: files, read in order, as packed batches.

The client plans splits (a range of one file's decompressed bytes each); the operator reads them in turn and keeps the stream of the
file open in between.
"""

from __future__ import annotations

import glob
import gzip
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import zstandard
from pyflink.common import Row
from pyflink.datastream import FlatMapFunction, RuntimeContext

from models.batch import Batcher, BatchParams
from models.errors import DataSetError
from models.parsing import Raw
from udfs.worker import prepare_worker, settle

SPLIT_BYTES: Final = 4 << 20
BATCH_LINES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Split:
    """The lines of a file that begin in [start, end) of its decompressed bytes.

    Attributes:
        path: the file; its name is the topic of its lines.
        partition: place of the file among the source's files.
        start: first byte.
        end: byte after the last.
        modified_ms: when the file was last written; the time of lines that carry none.
    """

    path: str
    partition: int
    start: int
    end: int
    modified_ms: int

    def to_json(self) -> str:
        """The split as the source's element."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Split:
        """The inverse of `to_json`."""
        return cls(**orjson.loads(text))


def open_lines(path: Path) -> BinaryIO:
    """The decompressed bytes of a plain, .gz or .zst file."""
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), 1 << 20)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb", buffering=1 << 20)


def _size(path: Path) -> int:
    if path.suffix not in (".zst", ".gz"):
        return path.stat().st_size
    size = 0
    with open_lines(path) as stream:
        while chunk := stream.read(1 << 22):
            size += len(chunk)
    return size


def plan(pattern: str) -> list[Split]:
    """The splits of every file that a path or glob pattern names, in order of name.

    Raises:
        DataSetError: if there is no such file.
    """
    paths = [Path(name) for name in sorted(glob.glob(pattern)) if Path(name).is_file()]  # noqa: PTH207 — the pattern is the user's, absolute or not
    if Path(pattern).is_dir():
        paths = sorted(path for path in Path(pattern).iterdir() if path.is_file())
    if not paths:
        raise DataSetError(f"There is no file {pattern}; give a file, a folder or a pattern such as 'logs/*.log'.")
    splits = []
    for partition, path in enumerate(paths):
        size, modified_ms = _size(path), int(path.stat().st_mtime * 1000)
        splits += [
            Split(str(path.resolve()), partition, start, min(start + SPLIT_BYTES, size), modified_ms)
            for start in range(0, size, SPLIT_BYTES)
        ]
    return splits


class ReadFilesFn(FlatMapFunction):
    """Reads splits in order and packs their lines.

    A line's offset is its number in the file, from 0; splits of one file come one after the other, so the open stream goes on where the
    last split ended. After a restart it is read again from the beginning up to the split, to count the lines.
    """

    def __init__(self, params: str) -> None:
        self._params = params

    def open(self, runtime_context: RuntimeContext) -> None:
        """Build the core from its parameters."""
        prepare_worker()
        self._batcher: Batcher = BatchParams.from_json(self._params).build()
        self._path = ""
        self._stream: BinaryIO | None = None
        self._at = 0  # byte of the next line's begin
        self._line = 0
        settle()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def flat_map(self, value: str) -> Iterator[Any]:
        """The packed batches of one split."""
        split = Split.from_json(value)
        self._seek(split)
        while lines := self._read(split.end):
            raw = Raw(
                values=lines,
                topic=split.path,
                partition=np.full(len(lines), split.partition, np.int32),
                offset=np.arange(self._line - len(lines), self._line, dtype=np.int64),
                timestamp_ms=np.full(len(lines), split.modified_ms, np.int64),
            )
            for shard, packed in self._batcher.step(raw):
                yield Row(str(shard), packed)

    def _seek(self, split: Split) -> None:
        if self._stream is None or self._path != split.path or self._at > split.start + SPLIT_BYTES:
            self.close()
            self._path, self._stream, self._at, self._line = split.path, open_lines(Path(split.path)), 0, 0
        while self._at < split.start and self._read(split.start):
            pass

    def _read(self, end: int) -> list[bytes]:
        """The next lines that begin before `end`, at most a batch."""
        assert self._stream is not None
        lines: list[bytes] = []
        while len(lines) < BATCH_LINES and self._at < end:
            line = self._stream.readline()
            if not line:
                break
            self._at += len(line)
            lines.append(line.rstrip(b"\r\n"))
        self._line += len(lines)
        return lines
