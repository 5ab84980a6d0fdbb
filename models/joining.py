"""Lines of a batch without those that only continue a stack trace: what templates, windows and detectors look at.

A trace that was printed line by line is one event. Its head is judged like any line; the frames below it would be templates that mean nothing, and a
hundred lines that nobody expected. Which lines they are does not hang on the cut into batches (models/traces.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from models.packing import Lines
from models.traces import Traces

_INDEX_BITS = 14  # of an origin; records of one message beyond share the last number
_COLUMNS = ("ts", "level", "group", "session", "host", "topic", "partition", "offset", "index", "kafka_ts")


def without_parts(traces: Traces, lines: Lines) -> Lines:
    """The lines that stand on their own; `traces` moves on."""
    if not len(lines):
        return lines
    origin = lines.offset << _INDEX_BITS | np.minimum(lines.index, (1 << _INDEX_BITS) - 1)
    is_part = traces.step(_keys(lines), origin, lines.ts, lines.level, lines.messages).is_part
    return take(lines, np.flatnonzero(~is_part)) if is_part.any() else lines


def take(lines: Lines, rows: npt.NDArray[np.intp]) -> Lines:
    """These lines only, in this order; texts that none of them has are left out, so that no template is made of them."""
    used, text = np.unique(lines.text[rows], return_inverse=True)
    return replace(
        lines,
        texts=[lines.texts[at] for at in used.tolist()],
        service_of_text=lines.service_of_text[used],
        text=text.ravel().astype(np.int32),
        messages=lines.messages.take(pa.array(rows)),
        **{name: getattr(lines, name)[rows] for name in _COLUMNS},
    )


def _keys(lines: Lines) -> npt.NDArray[np.uint64]:
    """A key for each line's service, host, topic and partition: who printed it; `uint64[N]`."""
    service = lines.service_of_text[lines.text].astype(np.int64)
    codes = ((service << 20 | (lines.host + 1)) << 12 | lines.topic) << 16 | lines.partition
    distinct, which = np.unique(codes, return_inverse=True)
    hashes = np.empty(len(distinct), np.uint64)
    for at, code in enumerate(distinct.tolist()):
        host = (code >> 28 & 0xFFFFF) - 1
        parts = (
            lines.services[code >> 48],
            lines.hosts[host] if host >= 0 else "",
            lines.topics[code >> 16 & 0xFFF],
            str(code & 0xFFFF),
        )
        hashes[at] = xxhash.xxh3_64_intdigest("\0".join(parts).encode())
    keys: npt.NDArray[np.uint64] = hashes[which.ravel()]
    return keys
