"""The sources for use without a broker: files, read in order, as packed batches.

Files that are complete: the client plans splits (a range of one file's decompressed bytes each); the operator reads them in turn and keeps
the stream of the file open in between.

Files that grow: a tick keeps the job alive, and a timer looks at the files (models/tail.py decides what is read). Positions are keyed
state, so a restart goes on where its checkpoint was.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import zstandard
from loguru import logger
from pyflink.common import Row
from pyflink.datastream import FlatMapFunction, KeyedProcessFunction, RuntimeContext

from models.batch import Batcher, BatchParams
from models.errors import DataSetError
from models.generations import FileId, Seen
from models.parsing import Raw
from models.tail import COMPRESSED, Tail, TailParams
from udfs.state import POSITIONS
from udfs.worker import prepare_worker, settle

SPLIT_BYTES: Final = 4 << 20
BATCH_LINES: Final = 10_000
#: How often growing files are looked at, and the longest that one look may read before a checkpoint can pass, in ms.
LOOK_MS: Final = 200
READ_MS: Final = 500


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


def matching(pattern: str) -> list[Path]:
    """What is in a folder, or what a path or glob pattern stands for; sorted by name."""
    if Path(pattern).is_dir():
        return sorted(Path(pattern).iterdir())
    return [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 — the pattern is the user's, absolute or not


def plan(pattern: str) -> list[Split]:
    """The splits of every file that a path or glob pattern names, in order of name.

    Raises:
        DataSetError: if there is no such file.
    """
    paths = [path for path in matching(pattern) if path.is_file()]
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


class LogFiles:
    """The files that a path, folder or pattern names, as models/tail.py sees them; compressed ones, and hidden ones of a folder, are left out."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._held: dict[FileId, tuple[str, int]] = {}  # path when it was opened, descriptor

    def logs(self) -> list[Seen]:
        """The files to follow that are there now, sorted by path."""
        is_folder = Path(self._pattern).is_dir()
        return _seen(path for path in matching(self._pattern) if not (is_folder and path.name.startswith(".")))

    def beside(self, path: str) -> list[Seen]:
        """All files in the folder of a path; a link is no other file."""
        folder = Path(path).parent
        return _seen(folder.iterdir(), is_link_followed=False) if folder.is_dir() else []

    def hold(self, seen: Seen) -> bool:
        """Keep a file open; False if its name means another file by now, or none."""
        if seen.file in self._held:
            return True
        try:
            descriptor = os.open(seen.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != seen.file:
            os.close(descriptor)
            return False
        self._held[seen.file] = seen.path, descriptor
        return True

    def held(self, file: FileId) -> Seen | None:
        """The file as it is now; None if it is not held."""
        if file not in self._held:
            return None
        path, descriptor = self._held[file]
        return _seen_as(path, os.fstat(descriptor))

    def release(self, file: FileId) -> None:
        """Close a file."""
        if file in self._held:
            os.close(self._held.pop(file)[1])

    def read(self, file: FileId, start: int, count: int) -> bytes:
        """Bytes of a file that is held; fewer than asked for at its end."""
        return os.pread(self._held[file][1], count, start)

    def close(self) -> None:
        """Close all files."""
        for file in list(self._held):
            self.release(file)


def _seen_as(path: str, found: os.stat_result) -> Seen:
    return Seen(path, (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def _seen(paths: Iterable[Path], *, is_link_followed: bool = True) -> list[Seen]:
    seen = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed, or a link to nothing
            found = path.stat(follow_symlinks=is_link_followed)
            if stat.S_ISREG(found.st_mode) and path.suffix not in COMPRESSED:
                seen.append(_seen_as(str(path), found))
    return seen


class FollowFilesFn(KeyedProcessFunction):
    """Follows growing files and packs their lines; an element only starts the timer.

    State: under the source's one key, `POSITIONS`; bound as in models/tail.py. The decoded tail and the open files are a cache.
    """

    def __init__(self, params: str, pattern: str) -> None:
        self._params = params
        self._pattern = pattern

    def open(self, runtime_context: RuntimeContext) -> None:
        """Build the core from its parameters, and get the state."""
        prepare_worker()
        self._batcher: Batcher = BatchParams.from_json(self._params).build()
        self._positions = runtime_context.get_map_state(POSITIONS)
        self._files = LogFiles(self._pattern)
        self._tail: Tail | None = None
        settle()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """See that the timer runs."""
        _set_timer(ctx)
        yield from ()

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        """The packed batches of what is new in the files."""
        if self._tail is None:
            self._tail = TailParams(batch_lines=BATCH_LINES).build(dict(self._positions.items()))
        until = time.monotonic() + READ_MS / 1000
        has_more = True
        while has_more and time.monotonic() < until:
            step = self._tail.step(self._files, int(time.time() * 1000))
            has_more = step.has_more
            self._write(step.writes)
            for note in step.notes:
                logger.warning(note)
            for raw in step.batches:
                for shard, packed in self._batcher.step(raw):
                    yield Row(str(shard), packed)
        _set_timer(ctx)

    def _write(self, writes: dict[str, bytes | None]) -> None:
        for path, position in writes.items():
            if position is None:
                self._positions.remove(path)
            else:
                self._positions.put(path, position)


def _set_timer(ctx: Any) -> None:
    """One timer at the next full interval; setting it twice is setting it once."""
    now = int(time.time() * 1000)
    ctx.timer_service().register_processing_time_timer(now - now % LOOK_MS + LOOK_MS)
