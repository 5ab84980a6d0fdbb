"""A followed file and how it is known again: by device and inode, and by its first bytes.

An inode is given out again once its file is deleted, and a copy has another inode; so neither alone tells what happened to a file.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
import xxhash

VERSION: Final = 1
#: First bytes that tell files apart; the OpenTelemetry collector and Filebeat take as many.
HEAD_BYTES: Final = 1_024
#: The first 32, 64, 96, … of them are hashed too, so that what was read can be compared with a shorter copy of it.
_STEP: Final = 32

FileId = tuple[int, int]  # device, inode

_NUMBER_OR_DATE = r"(?:\.\d[\d._T:-]*|-\d{4}-?\d\d[\d._T:-]*)"
_ROTATED = (
    re.compile(rf"(?P<base>.+?)(?:{_NUMBER_OR_DATE}|\.old)"),
    re.compile(rf"(?P<base>.+?){_NUMBER_OR_DATE}(?P<ending>\.[A-Za-z]\w*)"),
)


def rotated_from(path: str) -> str | None:
    """The log that a rotated file's name speaks of; None if the name is none of logrotate's, log4j's or Python's.

    >>> rotated_from("/logs/app.log.1"), rotated_from("app.log-20240131"), rotated_from("app-2024-01-31.2.log")
    ('/logs/app.log', 'app.log', 'app.log')
    >>> rotated_from("app.log"), rotated_from("worker-1.log"), rotated_from("/logs.d/2024-01-31.log")
    (None, None, None)
    """
    folder, name = posixpath.split(path)
    for pattern in _ROTATED:
        if found := pattern.fullmatch(name):
            return posixpath.join(folder, found["base"] + found.groupdict().get("ending", ""))
    return None


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was found: under which name, which one, how long, and when it was last written."""

    path: str
    file: FileId
    size: int
    modified_ns: int

    @property
    def modified_ms(self) -> int:
        """When it was last written, ms since 1970."""
        return self.modified_ns // 1_000_000


class Files(Protocol):
    """The file system, as far as following needs it. A file that is held can be read under any name and after its deletion."""

    def logs(self) -> list[Seen]:
        """The files to follow that are there now, sorted by path."""

    def beside(self, path: str) -> list[Seen]:
        """All files in the folder of a path, compressed ones left out."""

    def hold(self, seen: Seen) -> bool:
        """Keep a file open; False if its name means another file by now, or none."""

    def held(self, file: FileId) -> Seen | None:
        """The file as it is now; None if it is not held."""

    def release(self, file: FileId) -> None:
        """Close a file."""

    def read(self, file: FileId, start: int, count: int) -> bytes:
        """Bytes of a file that is held; fewer than asked for at its end."""


def is_copy(other: Seen, original: Seen, files: Files) -> bool:
    """True where a file holds what another begins with, as far as the first bytes tell; both are held."""
    count = min(other.size, HEAD_BYTES)
    return _STEP <= other.size <= original.size and files.read(other.file, 0, count) == files.read(
        original.file, 0, count
    )


def fingerprint(head: bytes) -> list[int]:
    """Hashes of the first 32, 64, 96, … bytes of a file's head, as far as it goes, and of all of it.

    >>> len(fingerprint(b"")), len(fingerprint(bytes(32))), len(fingerprint(bytes(33))), len(fingerprint(bytes(1024)))
    (1, 1, 2, 32)
    """
    return [xxhash.xxh32_intdigest(head[:count]) for count in (*range(_STEP, len(head), _STEP), len(head))]


@dataclass(slots=True, eq=False)
class Generation:
    """One file that a log's path stands or stood for.

    Attributes:
        file: its device and inode.
        position: bytes that were read of it, whole lines.
        head: fingerprint of the first of those bytes, at most `HEAD_BYTES`.
        is_done: it was rotated away and read to its end.
    """

    file: FileId
    position: int = 0
    head: list[int] = field(default_factory=lambda: fingerprint(b""))
    is_done: bool = False

    @classmethod
    def copied(cls, seen: Seen, files: Files) -> Generation:
        """A file, which is held, that is nothing but a copy of what was read."""
        return cls(
            seen.file, seen.size, fingerprint(files.read(seen.file, 0, min(seen.size, HEAD_BYTES))), is_done=True
        )

    def is_in(self, seen: Seen, files: Files) -> bool:
        """True where a file, which is held, begins with what was read."""
        if seen.size < self.position:
            return False
        return self.head[-1] == fingerprint(files.read(seen.file, 0, min(self.position, HEAD_BYTES)))[-1]

    def has_copy(self, seen: Seen, files: Files) -> bool:
        """True where a file, which is held, is a copy of the first part of what was read; below 32 bytes none can be told."""
        count = min(seen.size, HEAD_BYTES) // _STEP * _STEP
        if not count or seen.size >= self.position:
            return False
        return xxhash.xxh32_intdigest(files.read(seen.file, 0, count)) == self.head[count // _STEP - 1]

    def advance(self, count: int, files: Files) -> None:
        """Count further bytes as read."""
        is_head_whole = self.position >= HEAD_BYTES
        self.position += count
        if not is_head_whole:
            self.head = fingerprint(files.read(self.file, 0, min(self.position, HEAD_BYTES)))


@dataclass(slots=True, eq=False)
class Log:
    """One path, its generations, oldest first, and its count of lines.

    The last three are no state: whether the generations were looked for since the start, what the path named at the last look, and
    whether only a change there can bring a line.
    """

    path: str
    partition: int
    line: int = 0
    generations: list[Generation] = field(default_factory=list)
    is_found: bool = False
    seen: Seen | None = None
    is_idle: bool = False

    def to_bytes(self) -> bytes:
        """Version (1) ‖ JSON [partition, line, [[device, inode, position, head, is_done], …]]."""
        generations = [[*g.file, g.position, g.head, g.is_done] for g in self.generations]
        return versioned([self.partition, self.line, generations])

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Log:
        """The inverse of `to_bytes`."""
        partition, line, rows = payload(data)
        return cls(path, partition, line, [Generation((device, inode), *rest) for device, inode, *rest in rows])


def age(seen: Seen) -> tuple[int, int, str]:
    """Sorts rotated files oldest first: by last write; of two at once, by the higher number or the earlier date in the name."""
    number = re.search(r"\.(\d+)$", seen.path)
    return seen.modified_ns, -int(number[1]) if number else 0, seen.path


def versioned(values: list[Any]) -> bytes:
    """Version (1) ‖ JSON."""
    return bytes([VERSION]) + orjson.dumps(values)


def payload(data: bytes) -> list[Any]:
    """The inverse of `versioned`.

    Raises:
        ValueError: it was written by another version.
    """
    if data[:1] != bytes([VERSION]):
        raise ValueError(
            f"the position of a followed file has version {data[:1].hex()}, this program reads {VERSION:02x}"
        )
    return list(orjson.loads(data[1:]))
