"""A small world for detectors: a shop's sessions as `Seen` batches, normal or with one planted fault, without parser or job.

A session of the service `shop` takes one of three paths over the templates below; the service `clock` logs one line every ten seconds without
session. Messages carry a duration that is Gaussian around its template's mean, and a free word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from models.detectors.contract import Corpus, Ends, Params, Seen
from models.detectors.registry import REGISTRY
from models.detectors.texts import TextParams
from models.windows import WindowParams

LENGTH = 5
NAMES = (
    "",
    "",
    "request <id> received for the basket in <num> ms",
    "basket <id> loaded from the store in <num> ms",
    "price of basket <id> computed in <num> ms",
    "payment of basket <id> authorised in <num> ms",
    "payment of basket <id> declined in <num> ms",
    "order <id> written to the ledger in <num> ms",
    "request <id> answered in <num> ms",
    "the scheduler woke up after <num> ms",
)
MEAN_MS = (0, 0, 5, 20, 50, 200, 180, 30, 10, 1000)
END = len(NAMES)
UNKNOWN_TEXT = "kernel panic: the disk controller does not answer any more"
PATHS = ((2, 3, 4, 5, 7, 8), (2, 3, 4, 6, 8), (2, 3, 3, 4, 5, 7, 8))
SHOP, CLOCK = np.uint64(101), np.uint64(202)


@dataclass(frozen=True)
class Line:
    code: int
    ts: int
    key: int
    service: int
    value: float
    text: str = ""


Fault = Callable[[list[Line], np.random.Generator], list[Line]]


def session(rng: np.random.Generator, key: int, start_ms: int) -> list[Line]:
    path = PATHS[rng.choice(3, p=(0.6, 0.25, 0.15))]
    steps = np.cumsum(rng.integers(20, 400, len(path)))
    return [
        Line(code, int(start_ms + step), key, int(SHOP), float(max(1.0, rng.normal(MEAN_MS[code], MEAN_MS[code] / 10))))
        for code, step in zip(path, steps, strict=True)
    ]


def lines(
    count: int, seed: int = 0, fault: Fault | None = None, faulty: Sequence[int] = (), gap_ms: int = 700
) -> list[Line]:
    """The lines of `count` sessions and of the clock beside them, by time; the sessions numbered in `faulty` go through `fault`."""
    rng = np.random.default_rng(seed)
    start = 1_700_000_000_000
    found: list[Line] = []
    for number in range(count):
        made = session(rng, 1_000 + number, start + number * gap_ms)
        found += fault(made, rng) if fault is not None and number in faulty else made
    for tick in range(0, count * gap_ms, 10_000):
        found.append(Line(9, start + tick, int(CLOCK), int(CLOCK), float(rng.normal(1000, 20))))
    return sorted(found, key=lambda line: line.ts)


def batches(made: Sequence[Line], cuts: Sequence[int] = (), wait_ms: int = 5_000) -> list[Seen]:
    """The lines as a shard would show them to a detector, cut before the lines numbered in `cuts`."""
    windows = WindowParams(length=LENGTH, session_gap_ms=60_000).build()
    texts: dict[str, int] = {}
    found = []
    for low, high in pairwise([0, *sorted(cuts), len(made)]):
        part = made[low:high]
        if not part:
            continue
        code = np.array([line.code for line in part], np.int32)
        ts = np.array([line.ts for line in part], np.int64)
        key = np.array([line.key for line in part], np.uint64)
        service = np.array([line.service for line in part], np.uint64)
        has_session = service == SHOP
        which = (service == CLOCK).astype(np.int32)
        wait = np.where(has_session, wait_ms, -1)
        newest = {name: windows.newest(name) or 0 for name in ("shop", "clock")}
        now = np.empty(len(part), np.int64)
        for place, name in ((np.flatnonzero(which == 0), "shop"), (np.flatnonzero(which == 1), "clock")):
            now[place] = np.maximum.accumulate(np.maximum(ts[place], newest[name]))
        step = windows.step(key, code, ts, which, ["shop", "clock"], wait)
        windows.put_notes(step.rows, [int(key[at]).to_bytes(8, "little") for at in step.last_line.tolist()])
        windows.touched()
        shown = [line.text or NAMES[line.code] for line in part]
        message = [
            text.replace("<num>", f"{line.value:.0f}").replace("<id>", f"b-{line.key:x}")
            for text, line in zip(shown, part, strict=True)
        ]
        ended = step.ended
        ended_key = [
            int(key[at]) if at >= 0 else int.from_bytes(note, "little")
            for at, note in zip(ended.line.tolist(), ended.notes, strict=True)
        ]
        local: dict[str, int] = {}
        text = np.array([local.setdefault(name, len(local)) for name in shown], np.int32)
        seq = np.array([texts.setdefault(name, len(texts)) for name in shown], np.int32)
        found.append(
            Seen(
                code=code,
                windows=np.where(step.windows < 0, 0, step.windows).astype(np.int32),
                seq=seq,
                ts=ts,
                now=now,
                level=np.full(len(part), 3, np.uint8),
                key=key,
                service=service,
                has_session=has_session,
                is_late=step.is_late,
                text=text,
                texts=list(local),
                message=pa.array(message, pa.large_string()),
                ends=Ends(
                    np.where(ended.windows < 0, 0, ended.windows).astype(np.int32),
                    np.array(ended_key, np.uint64),
                    ended.ts,
                ),
            )
        )
    return found


def params(name: str) -> Params:
    """The parameters of a detector; of texts with the embedding that is built in, which needs no time to load."""
    kind = REGISTRY[name]
    return kind(embedding="hashed") if issubclass(kind, TextParams) else kind()


def corpus(count: int = 400, seed: int = 0) -> Corpus:
    """Normal lines to learn from."""
    return Corpus(batches(lines(count, seed), cuts=range(500, 100_000, 500)), NAMES, LENGTH)


# ---- one fault for each detector to find


def new_text(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """A line of a kind never seen, in the middle."""
    odd = Line(1, made[2].ts + 1, made[2].key, made[2].service, 0.0, UNKNOWN_TEXT)
    return [*made[:3], odd, *made[3:]]


def swapped(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """Two steps in the wrong order; every line as always."""
    first, second = made[1], made[3]
    codes = {1: second.code, 3: first.code}
    return [Line(codes.get(at, line.code), line.ts, line.key, line.service, line.value) for at, line in enumerate(made)]


def missing(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """A step left out: the ledger, or the loading of the basket."""
    return [line for line in made if line.code not in (7, 4)]


def stopped(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """The session stops half way."""
    return made[:3]


def slow(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """The right lines in the right order, one of them ten times as slow."""
    return [
        Line(line.code, line.ts, line.key, line.service, line.value * (10 if line.code == 4 else 1)) for line in made
    ]


def repeated(made: list[Line], rng: np.random.Generator) -> list[Line]:
    """One step again and again inside the session."""
    again = [Line(3, made[1].ts + at, made[1].key, made[1].service, made[1].value) for at in range(1, 7)]
    return [*made[:2], *again, *made[2:]]


def is_faulty(seen: Seen, faulty: Sequence[int]) -> np.ndarray:
    """Which lines belong to the sessions numbered in `faulty`."""
    return np.isin(seen.key, np.array([1_000 + number for number in faulty], np.uint64))
