"""Sequences of template ids by service, packed for Redis: what the trainer learns from.

```
shard's columns ── SequenceBatch.of ──→ SequenceBatch ── to_bytes ──→ Flink ── from_bytes ──→ XADD, HSET
Redis stream entries ── sequences ──→ Sequence*, each line once
```

Redis holds, for each service:
- stream `driftwood:sequences:<service>`, about the newest `max_entries` entries, each of the fields `topic`, `partition`,
  `first`, `last` (offsets), `lines` (texts, for a person) and `packed` (below);
- hash `driftwood:templates:<service>`: template id (8 hex digits) → template text;
and the set `driftwood:services`. It is a sample for training and not a record: over its caps it forgets.
"""

from __future__ import annotations

import bisect
import dataclasses
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import zstandard

from models.delivery import RetryParams, SinkUrl
from models.errors import ArtefactError, SettingsError

PACKED_VERSION = 1
BATCH_VERSION = 1
#: More lines than this in one entry would be a damaged length.
MAX_LINES = 1 << 20
#: Shorter entries are not compressed: a frame costs 20 µs whatever it holds, and a batch may have thousands of entries.
COMPRESS_LINES = 64

_HEAD = struct.Struct("<BBIq")
_ROW = np.dtype([("offset", "<u4"), ("template", "<u4"), ("session", "<u8"), ("ts", "<i8")])
_NAMES = ("offset", "template", "session", "ts")
_ROWS, _COLUMNS = 0, 1


@dataclasses.dataclass(frozen=True)
class RedisParams:
    """Where and how the training buffer is kept.

    Bounds: at most `max_services` services, each with about `max_entries` stream entries. An entry is one service's lines
    of one batch and partition.
    """

    host: str
    port: int = 6379
    database: int = 0
    is_tls: bool = False
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    ca_file: str = ""
    prefix: str = "driftwood"
    max_entries: int = 2_000
    max_services: int = 1_000
    retry: RetryParams = dataclasses.field(default_factory=RetryParams)

    def __post_init__(self) -> None:
        if not self.prefix or self.max_entries < 1 or self.max_services < 1:
            raise SettingsError("The Redis buffer cannot be used: it needs a prefix, and caps of at least 1.")

    @classmethod
    def from_url(cls, url: str) -> RedisParams:
        """The settings in an address: `redis://[user:password@]host[:6379][/database]?max_entries=…`.

        `rediss://` speaks TLS. Other options: prefix, max_services, ca_file, deadline_s, timeout_s, max_tries.

        Raises:
            SettingsError: with every fault at once.

        >>> RedisParams.from_url("redis://:secret@cache.example/2")
        RedisParams(host='cache.example', port=6379, database=2, is_tls=False, user='', ca_file='', prefix='driftwood', \
max_entries=2000, max_services=1000, retry=RetryParams(base_s=0.5, cap_s=10.0, max_tries=20, deadline_s=60.0, \
timeout_s=10.0, seed=0))
        """
        at = SinkUrl(url, {"redis": 6379, "rediss": 6379})
        database = at.path.strip("/") or "0"
        if not (database.isascii() and database.isdigit()):
            at.wrong.append("the path must be the number of a database")
            database = "0"
        options: dict[str, Any] = {
            "host": at.host,
            "port": at.port,
            "database": int(database),
            "is_tls": at.is_tls,
            "user": at.user,
            "password": at.password,
            "ca_file": at.text("ca_file"),
            "prefix": at.text("prefix", cls.prefix),
            "max_entries": int(at.number("max_entries", cls.max_entries, 1, 1_000_000)),
            "max_services": int(at.number("max_services", cls.max_services, 1, 100_000)),
            "retry": at.retry(),
        }
        at.finish()
        return cls(**options)

    def sequences_key(self, service: str) -> str:
        """The key of the service's stream."""
        return f"{self.prefix}:sequences:{service}"

    def templates_key(self, service: str) -> str:
        """The key of the service's hash of template texts."""
        return f"{self.prefix}:templates:{service}"

    @property
    def services_key(self) -> str:
        """The key of the set of services."""
        return f"{self.prefix}:services"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Lines of one service from one partition, in offset order.

    Shapes: offsets int64[N], template_ids uint32[N], sessions uint64[N] (hash; 0 for none), ts_ms int64[N]; N ≥ 1.
    """

    service: str
    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    template_ids: npt.NDArray[np.uint32]
    sessions: npt.NDArray[np.uint64]
    ts_ms: npt.NDArray[np.int64]

    @property
    def first_offset(self) -> int:
        """The smallest offset: the lines are in offset order."""
        return int(self.offsets[0])

    @property
    def last_offset(self) -> int:
        """The greatest offset."""
        return int(self.offsets[-1])

    @classmethod
    def unpack(cls, service: str, topic: str, partition: int, packed: bytes) -> Sequence:
        """The sequence of an entry's `packed` bytes.

        ```
        byte  0      version (1)
              1      layout: 0 rows, 1 columns in a zstd frame
              2..5   N, lines               uint32 ┐
              6..13  first offset           int64  │ little endian
             14..    rows: N times offset − first uint32, template id uint32, session hash uint64, event time in ms int64;
                     columns: the same four, each N times, so that equal things stand together  ┘
        ```

        Raises:
            ArtefactError: another version, or damaged bytes.
        """
        try:
            version, layout, lines, first = _HEAD.unpack_from(packed)
            if version != PACKED_VERSION:
                raise ArtefactError(
                    f"A sequence of {service!r} has format {version}; this program reads {PACKED_VERSION}."
                )
            if not 0 < lines <= MAX_LINES or layout not in (_ROWS, _COLUMNS):
                raise ValueError(f"{lines} lines in layout {layout}")
            size = lines * _ROW.itemsize
            body = packed[_HEAD.size :]
            if layout == _COLUMNS:
                body = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
            if len(body) != size:
                raise ValueError(f"{len(body)} bytes for {lines} lines")
        except (struct.error, ValueError, zstandard.ZstdError) as error:
            raise ArtefactError(
                f"A sequence of {service!r} in the training buffer is damaged ({error}); delete its stream and let it "
                "fill again."
            ) from error
        if layout == _COLUMNS:
            at = np.cumsum([0, *(_ROW[name].itemsize * lines for name in _NAMES[:-1])]).tolist()
            columns = [np.frombuffer(body, _ROW[name], lines, start) for name, start in zip(_NAMES, at, strict=True)]
        else:
            rows = np.frombuffer(body, _ROW)
            columns = [rows[name] for name in _NAMES]
        return cls(
            service=service,
            topic=topic,
            partition=partition,
            offsets=first + columns[0].astype(np.int64),
            template_ids=columns[1].astype(np.uint32),
            sessions=columns[2].astype(np.uint64),
            ts_ms=columns[3].astype(np.int64),
        )

    def keep(self, rows: npt.NDArray[np.bool_]) -> Sequence | None:
        """The lines that the mask `rows` bool[N] names; None when it names none."""
        if rows.all():
            return self
        if not rows.any():
            return None
        return dataclasses.replace(
            self,
            offsets=self.offsets[rows],
            template_ids=self.template_ids[rows],
            sessions=self.sessions[rows],
            ts_ms=self.ts_ms[rows],
        )


class PackedSequence(NamedTuple):
    """One sequence as Redis will hold it; the delivery operator moves `packed` and never looks inside."""

    service: str
    topic: str
    partition: int
    first_offset: int
    last_offset: int
    lines: int
    packed: bytes

    def fields(self) -> dict[str, str | int | bytes]:
        """The fields of the stream entry."""
        return {
            "topic": self.topic,
            "partition": self.partition,
            "first": self.first_offset,
            "last": self.last_offset,
            "lines": self.lines,
            "packed": self.packed,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceBatch:
    """What one batch of a shard adds to the training buffer: sequences of several services, and new or changed templates.

    `templates` are (service, template id, text).
    """

    sequences: tuple[PackedSequence, ...]
    templates: tuple[tuple[str, int, str], ...] = ()

    @classmethod
    def of(
        cls,
        services: list[str],
        topics: list[str],
        service: npt.NDArray[np.int32],
        topic: npt.NDArray[np.int32],
        partition: npt.NDArray[np.int32],
        offset: npt.NDArray[np.int64],
        template_ids: npt.NDArray[np.uint32],
        sessions: npt.NDArray[np.uint64],
        ts_ms: npt.NDArray[np.int64],
        templates: Iterable[tuple[str, int, str]] = (),
    ) -> SequenceBatch:
        """A shard's batch, cut into one sequence for each service, topic and partition.

        Shapes: all columns [N], in source order; `service` and `topic` are rows of `services` and `topics`.
        """
        if not len(offset):
            return cls((), tuple(templates))
        order = np.lexsort((offset, partition, topic, service))  # stable: records of one message stay in order
        keys = np.stack((service[order], topic[order], partition[order]))  # [3, N]
        starts = np.concatenate(([0], np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1))
        ends = np.append(starts[1:], len(order))
        offsets = offset[order]
        firsts, lasts = offsets[starts], offsets[ends - 1]
        if (lasts - firsts).max() > 0xFFFF_FFFF or (ends - starts).max() > MAX_LINES:
            raise ValueError("a sequence spans more lines or offsets than its format holds: send smaller batches")
        rows = np.empty(len(order), _ROW)
        rows["offset"] = offsets - np.repeat(firsts, ends - starts)
        rows["template"] = template_ids[order]
        rows["session"] = sessions[order]
        rows["ts"] = ts_ms[order]
        # One loop over the sequences, on plain numbers and slices of one bytes object: a batch may hold thousands.
        data, size = rows.tobytes(), _ROW.itemsize
        of_service, of_topic, of_partition = (column[starts].tolist() for column in keys)
        sequences = []
        for row, (start, end, first, last) in enumerate(
            zip(starts.tolist(), ends.tolist(), firsts.tolist(), lasts.tolist(), strict=True)
        ):
            lines = end - start
            if lines < COMPRESS_LINES:
                packed = _HEAD.pack(PACKED_VERSION, _ROWS, lines, first) + data[start * size : end * size]
            else:
                columns = b"".join(rows[name][start:end].tobytes() for name in _NAMES)
                frame = zstandard.ZstdCompressor(level=1).compress(columns)
                packed = _HEAD.pack(PACKED_VERSION, _COLUMNS, lines, first) + frame
            names = services[of_service[row]], topics[of_topic[row]]
            sequences.append(PackedSequence(*names, of_partition[row], first, last, lines, packed))
        return cls(tuple(sequences), tuple(templates))

    def to_bytes(self) -> bytes:
        """The batch as one element between operators.

        ```
        byte  0      version (1)
              1..4   H, length of the head      uint32, little endian
              5..    head: JSON {"sequences": [[service, topic, partition, first, last, lines, bytes], …],
                                 "templates": [[service, id, text], …]}
              5+H..  the packed sequences, one after the other, each of its head's `bytes`
        ```
        """
        rows = [
            (s.service, s.topic, s.partition, s.first_offset, s.last_offset, s.lines, len(s.packed))
            for s in self.sequences
        ]
        head = orjson.dumps({"sequences": rows, "templates": self.templates})
        return b"".join((struct.pack("<BI", BATCH_VERSION, len(head)), head, *(s.packed for s in self.sequences)))

    @classmethod
    def from_bytes(cls, data: bytes) -> SequenceBatch:
        """The inverse of `to_bytes`.

        Raises:
            ArtefactError: another version.

        >>> batch = SequenceBatch((), (("cart", 7, "took <*> ms"),))
        >>> SequenceBatch.from_bytes(batch.to_bytes()) == batch
        True
        """
        version, length = struct.unpack_from("<BI", data)
        if version != BATCH_VERSION:
            raise ArtefactError(f"A batch of sequences has format {version}; this program reads {BATCH_VERSION}.")
        head = orjson.loads(data[5 : 5 + length])
        at = 5 + length
        sequences = []
        for service, topic, partition, first, last, lines, size in head["sequences"]:
            packed = data[at : at + size]
            sequences.append(PackedSequence(service, topic, partition, first, last, lines, packed))
            at += size
        return cls(tuple(sequences), tuple((service, number, text) for service, number, text in head["templates"]))


class Covered:
    """Offsets seen so far, as disjoint ranges.

    >>> covered = Covered()
    >>> covered.add(10, 19); covered.add(30, 39)
    >>> covered.fresh(np.array([15, 25, 35])).tolist()
    [False, True, False]
    """

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def fresh(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True where no range holds the offset; `offsets` int64[N]."""
        if not self._first:
            return np.ones(len(offsets), bool)
        at = np.searchsorted(self._first, offsets, side="right") - 1
        is_fresh: npt.NDArray[np.bool_] = (at < 0) | (offsets > np.asarray(self._last)[at])
        return is_fresh

    def add(self, first: int, last: int) -> None:
        """Adds a range, both ends included, and joins it with those that it touches."""
        low = bisect.bisect_left(self._last, first - 1)
        high = bisect.bisect_right(self._first, last + 1)
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]


def sequences(service: str, entries: Iterable[Mapping[bytes, bytes]]) -> Iterator[Sequence]:
    """The service's sequences from the fields of its stream entries, oldest first, with each line once.

    An entry of a replay covers offsets that were written before: those lines are left out, whatever the batches' cuts.

    Args:
        service: whose stream it is.
        entries: field → value of each entry, as bytes, in the stream's order.

    Raises:
        ArtefactError: an entry is of another version or damaged.
    """
    covered: dict[tuple[str, int], Covered] = {}
    for entry in entries:
        try:
            topic, partition = entry[b"topic"].decode(), int(entry[b"partition"])
            first, last = int(entry[b"first"]), int(entry[b"last"])
            packed = entry[b"packed"]
        except (KeyError, ValueError) as error:
            raise ArtefactError(f"The stream of {service!r} holds an entry that is no sequence: {error!r}.") from error
        seen = covered.setdefault((topic, partition), Covered())
        sequence = Sequence.unpack(service, topic, partition, packed)
        kept = sequence.keep(seen.fresh(sequence.offsets))
        seen.add(first, last)
        if kept is not None:
            yield kept
