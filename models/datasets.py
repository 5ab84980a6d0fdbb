"""Log files and data set folders: their lines as source batches, what may be trained on, and the labels, which no model sees.

```
FOLDER/dataset.json      unit (session, window, line or template), train_until | train_sessions | train_windows, session_field, grace_s
       logs.jsonl.zst    records as a shipper sends them (also logs.jsonl, logs.jsonl.gz, logs.log …)
       labels.csv        session,label · start,end,label[,kind][,service] · line,label
```
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import orjson
import zstandard

from models.errors import DataSetError
from models.parsing import Raw

UNITS: Final = ("session", "window", "line", "template")
BATCH_LINES: Final = 10_000

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class Unit:
    """One labelled unit: a session, a stretch of time, or a line.

    Units of time: ms since the epoch. `key` is the session or the line's number; `start` and `end` are None where time does not matter.
    """

    key: str
    is_anomalous: bool
    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set folder.

    Attributes:
        name, unit, logs: as the folder says; `logs` is None for unit template.
        units: the labelled units of the test part; empty where there are no labels.
        session_field: the field that holds the session, where the records have one.
        train_until_ms, train_sessions, train_windows: which lines may be trained on; all None: none.
        grace_ms: how long after a window's end an anomaly still counts for it.
    """

    folder: Path
    name: str
    unit: str
    logs: Path | None
    units: tuple[Unit, ...]
    session_field: str | None = None
    train_until_ms: int | None = None
    train_sessions: frozenset[str] | None = None
    train_windows: tuple[tuple[int, int], ...] | None = None
    grace_ms: int = 0

    @property
    def has_training_part(self) -> bool:
        """Whether the folder says what may be trained on."""
        return not (self.train_until_ms is None and self.train_sessions is None and self.train_windows is None)

    def is_training(
        self, ts: npt.NDArray[np.int64], session: npt.NDArray[np.int32], sessions: list[str]
    ) -> npt.NDArray[np.bool_]:
        """Which lines may be trained on.

        Shapes: `ts int64[N]`, `session int32[N]` (an index into `sessions`, -1 for none) → `bool[N]`.
        """
        result: npt.NDArray[np.bool_] = np.full(len(ts), self.has_training_part)
        if self.train_sessions is not None:
            known = np.array([*(name in self.train_sessions for name in sessions), False])
            result &= known[session]
        if self.train_until_ms is not None:
            result &= ts < self.train_until_ms
        if self.train_windows is not None:
            inside = np.zeros(len(ts), np.bool_)
            for start, end in self.train_windows:
                inside |= (ts >= start) & (ts <= end)
            result &= inside
        return result

    def sha256(self) -> str:
        """Of the log file, as it is on disk; of all files together for unit template."""
        if self.logs is not None:
            return file_sha256(self.logs)
        sums = [file_sha256(path) for path in sorted(self.folder.glob("*/*")) if path.is_file()]
        return hashlib.sha256("".join(sums).encode()).hexdigest()

    @classmethod
    def open(cls, folder: Path | str) -> DataSet:
        """Read a folder's description, split and labels.

        Raises: DataSetError if the folder is none, or a part of it is missing or cannot be understood.
        """
        root = Path(folder)
        about = _description(root)
        unit = about.get("unit")
        if unit not in UNITS:
            raise DataSetError(f"{root / 'dataset.json'}: unit is {unit!r}; it must be one of {', '.join(UNITS)}.")
        logs = None if unit == "template" else _log_file(root)
        grace = about.get("grace_s") or 0
        if not isinstance(grace, int | float) or grace < 0:
            raise DataSetError(f"{root / 'dataset.json'}: grace_s is {grace!r}; give seconds, at least 0.")
        field = about.get("session_field")
        if field is not None and not isinstance(field, str):
            raise DataSetError(f"{root / 'dataset.json'}: session_field is {field!r}; give the name of a field.")
        labels = root / "labels.csv"
        return cls(
            folder=root,
            name=str(about.get("name") or root.name),
            unit=unit,
            logs=logs,
            units=tuple(_units(labels, unit)) if unit != "template" and labels.exists() else (),
            session_field=field,
            train_until_ms=_time(about["train_until"], root) if about.get("train_until") else None,
            train_sessions=_session_list(root, about.get("train_sessions")),
            train_windows=_windows(root, about.get("train_windows")),
            grace_ms=round(grace * 1000),
        )


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path | str) -> Iterator[bytes]:
    """The lines of a plain, gzip or zstd file (told by its first bytes), without their ends; blank lines are left out.

    Raises: DataSetError if the file is missing, or damaged where it is compressed.
    """
    source = Path(path)
    if source.is_dir():
        raise DataSetError(f"{source} is a folder without dataset.json; name a log file in it.")
    try:
        with source.open("rb") as file, _plain(file) as plain:
            for line in plain:
                stripped = line.rstrip(b"\r\n")
                if stripped:
                    yield stripped
    except FileNotFoundError:
        raise DataSetError(f"{source} is not there; check the path (the current folder is {Path.cwd()}).") from None
    except (zstandard.ZstdError, gzip.BadGzipFile, EOFError) as error:
        raise DataSetError(f"{source} is damaged: {error}; copy it again.") from error
    except OSError as error:
        raise DataSetError(f"{source} cannot be read: {error.strerror}; check its permissions.") from error


@contextlib.contextmanager
def _plain(file: BinaryIO) -> Iterator[Iterable[bytes]]:
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as plain:
            yield plain
    elif head == _ZSTD:
        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False) as reader:
            yield io.BufferedReader(reader, 1 << 20)
    else:
        yield file


def to_batches(lines: Iterable[bytes], topic: str = "", size: int = BATCH_LINES) -> Iterator[Raw]:
    """Lines as source batches of one partition; a line's number, from 0, is its offset."""
    remaining, start = iter(lines), 0
    while values := list(islice(remaining, size)):
        count = len(values)
        offset = np.arange(start, start + count, dtype=np.int64)
        yield Raw(list(values), topic, np.zeros(count, np.int32), offset, np.zeros(count, np.int64))
        start += count


_LEVEL_KEYS: Final = frozenset(
    [
        "level",
        "severity",
        "loglevel",
        "log_level",
        "log.level",
        "lvl",
        "levelname",
        "level_name",
        "priority",
        "severitytext",
        "severity_text",
        "severitynumber",
        "severity_number",
        "syslog.severity",
    ]
)
_TEXT_KEYS: Final = frozenset(("message", "msg", "log", "body", "text", "event.original"))
_NAMES: Final = (
    "trace|debug|info|information|notice|warn|warning|error|err|severe|crit|critical|fatal|emerg|emergency|alert|panic"
)
_LEVEL_HEAD: Final = re.compile(  # in brackets, before a colon or bar, or in capitals
    rf"^\s*(?:[\[(<]\s*(?i:{_NAMES})\s*[\])>]|(?i:{_NAMES})\s*[:|]|(?:{_NAMES.upper()})\b)[\s:|-]*"
)
_LEVEL_WORD: Final = re.compile(
    rb"\b(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|SEVERE|CRITICAL|FATAL|EMERG|ALERT|PANIC)\b"
)
_HEAD_BYTES: Final = 120  # how far into a plain line its level is looked for


def hide_level(line: bytes) -> bytes:
    """The line with its level blanked: the level field, and a level word at the head of its message.

    >>> hide_level(b'{"level":"ERROR","message":"ERROR: disk full","n":1}')
    b'{"message":"disk full","n":1}'
    >>> hide_level(b"2024-01-02 03:04:05 WARN cart: disk full")
    b'2024-01-02 03:04:05  cart: disk full'
    """
    if line[:1] == b"{":
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            return orjson.dumps(_without_level(record))
    return _LEVEL_WORD.sub(b"", line[:_HEAD_BYTES], count=1) + line[_HEAD_BYTES:]


def _without_level(record: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in record.items():
        name = key.lower()
        if name in _LEVEL_KEYS:
            continue
        if isinstance(value, str) and name in _TEXT_KEYS:
            result[key] = _LEVEL_HEAD.sub("", value)
        else:
            result[key] = _without_level(value) if isinstance(value, dict) else value
    return result


# -- parts of a folder -----------------------------------------------------------------------------------------------


def _description(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        about = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataSetError(f"{path} is missing; give a data set folder, or a log file.") from None
    except orjson.JSONDecodeError as error:
        raise DataSetError(f"{path} is no JSON: {error}.") from error
    if not isinstance(about, dict):
        raise DataSetError(f"{path} is no JSON object.")
    return about


def _log_file(root: Path) -> Path:
    for path in sorted(root.glob("logs.*")):
        return path
    raise DataSetError(
        f"{root} holds no logs.jsonl.zst (nor logs.jsonl, logs.jsonl.gz, logs.log); is it a data set folder?"
    )


def _time(value: object, where: Path) -> int:
    """An ISO 8601 time, or ms since the epoch."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(value)
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        raise DataSetError(f"{where}: {value!r} is no time; write it as 2024-01-31T12:00:00.000Z.") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _session_list(root: Path, value: object) -> frozenset[str] | None:
    """The sessions of the training part: a list, or a file with one a line."""
    if value is None:
        return None
    if isinstance(value, list):
        return frozenset(str(name) for name in value)
    path = root / str(value)
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise DataSetError(
            f"{path}, which dataset.json names in train_sessions, cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise DataSetError(
            f"{path}, which dataset.json names in train_sessions, is no text in UTF-8; write one session a line."
        ) from error


def _windows(root: Path, value: object) -> tuple[tuple[int, int], ...] | None:
    """The stretches of the training part: a list of (start, end), or a csv file with these columns."""
    if value is None:
        return None
    if isinstance(value, str):
        rows = [(row["start"], row["end"]) for row in _rows(root / value, {"start", "end"})]
    elif isinstance(value, list):
        try:
            rows = [(start, end) for start, end in value]
        except (TypeError, ValueError):
            raise DataSetError(f"{root / 'dataset.json'}: train_windows must be a list of [start, end].") from None
    else:
        raise DataSetError(f"{root / 'dataset.json'}: train_windows must be a list or a file's name.")
    return tuple((_time(start, root), _time(end, root)) for start, end in rows)


def _rows(path: Path, columns: set[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataSetError(f"{path} is no csv file in UTF-8 ({error}); write it again as text.") from error
    if rows and not columns <= rows[0].keys():
        raise DataSetError(f"{path} lacks the columns {', '.join(sorted(columns - rows[0].keys()))}.")
    return rows


def _units(path: Path, unit: str) -> Iterator[Unit]:
    columns = {"session": {"session"}, "window": {"start", "end"}, "line": {"line"}}[unit]
    for row in _rows(path, {"label", *columns}):
        if row["label"] not in ("0", "1"):
            raise DataSetError(f"{path}: label {row['label']!r}; it must be 0 or 1.")
        is_anomalous = row["label"] == "1"
        if unit == "window":
            start, end = _time(row["start"], path), _time(row["end"], path)
            yield Unit(f"{row['start']}/{row['end']}", is_anomalous, start, end)
        else:
            yield Unit(row[unit], is_anomalous)
