"""A small world for trying detectors one by one: its normal lines, and one kind of fault at a time.

Service `yard`, a session each:

```
tour    enters, then 2–4 rounds: one of two carriages comes, three fillers in any order, the desk for such guests answers
chain   three times: one of four heads, the link, one of eleven tails (six of them rare)
stock   five lines four times each and four checkpoints, in any order
parcel  arrives, its state in one word, its weighing with a time, leaves
```

Service `pump` has no session: a pressure every few seconds, and a heartbeat twice a minute.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from models.packing import group_key
from models.sample.shapes import iso_time
from models.sample.shop import START_MS

Line = tuple[int, str, str | None, str]  # ts, service, session, message
Session = Callable[[Random, int], list[str]]  # the messages of the nth session of its kind

YARD, PUMP = "yard", "pump"
_TIERS: Final = {"gold": "golden carriage draws up", "silver": "silver coach stops by the kerb"}
_DESKS: Final = {"gold": "first desk answers with keys", "silver": "porter hands over second map folded"}
_FILLERS: Final = (
    "lamp beside platform glows",
    "draught passes through hall",
    "clerk sorts papers by colour",
)
_GOODS: Final = (
    "crate of apples goes onto shelf",
    "sack of flour goes under table",
    "barrel of oil stands near door",
    "box of nails slides into drawer below bench",
    "bundle of wool hangs over rail",
)
_CHECKPOINT: Final = "checkpoint of inventory written"
_HEADS: Final = (
    "red flag hoisted",
    "blue flag waved about",
    "green flag lowered slowly down",
    "white flag folded again by hand",
)
_LINK: Final = "signal box acknowledges whatever was shown"
_TAILS: Final = (
    "points set left",
    "points set right for shunting",
    "barrier closes before crossing now",
    "barrier opens",
    "whistle blows once from engine shed",
    "engine reverses into siding",
    "wagon uncoupled at buffer stop",
    "guard walks whole length of train",
    "coal tipped into bunker",
    "water tower filled up again by evening",
    "driver signs off",
)
_RARE: Final = 6  # of the tails, the last ones
_NEVER: Final = (0, len(_TAILS) - _RARE)  # the head and the tail that never meet
_STATES: Final = ("dry", "soft", "heavy", "light", "flat", "round", "fragile", "warm", "cold", "small")
_STEP_MS: Final = (50, 500)
_BEAT_MS: Final = 30_000
_SLOW_MS: Final = 9_000
_SILENT_MS: Final = 300_000
_LAST: Final = 20  # sessions whose end the log may not live to see


@dataclass(frozen=True)
class PlantedParams:
    """How much there is.

    Attributes:
        learning: normal sessions to learn from.
        watched: sessions of a watched log.
        faulty: of these, sessions with the fault.
        apart_ms: between the starts of two sessions.
        seed: the same seed gives the same lines.
    """

    learning: int = 2_400
    watched: int = 200
    faulty: int = 20
    apart_ms: int = 1_000
    seed: int = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault is, or a normal session: a sequence of lines, and a stretch of time."""

    key: int
    start_ms: int
    end_ms: int

    def holds(self, key: npt.NDArray[np.uint64], ts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which lines lie in it."""
        held: npt.NDArray[np.bool_] = (key == np.uint64(self.key)) & (ts >= self.start_ms) & (ts <= self.end_ms)
        return held


# -- normal sessions: their messages in order ----------------------------------------------------------------------------


def _tour(chance: Random, number: int, desks: Sequence[str] = ()) -> list[str]:
    """Rounds in which the carriage that comes decides who answers; `desks` answer where it is not so."""
    announced = ["gold", "silver", "gold"] if desks else chance.choices(tuple(_TIERS), k=chance.randint(2, 4))
    found = ["visitor enters by main gate"]
    for tier, desk in zip(announced, desks or announced, strict=True):
        found += [_TIERS[tier], *chance.sample(_FILLERS, len(_FILLERS)), _DESKS[desk]]
    return found


def _chain(chance: Random, number: int, is_faulty: bool = False) -> list[str]:
    """Three heads in any order, the tails in turn; a rare tail comes last, in one of eight sessions, and meets every head but one."""
    common = len(_TAILS) - _RARE
    heads = chance.sample(range(len(_HEADS)), 3)
    tails = [(number + at) % common for at in range(3)]
    if number % 8 == 0:
        usual = [
            (head, tail) for tail in range(common, len(_TAILS)) for head in range(len(_HEADS)) if (head, tail) != _NEVER
        ]
        head, tail = _NEVER if is_faulty else usual[number // 8 % len(usual)]
        heads = [*chance.sample([other for other in range(len(_HEADS)) if other != head], 2), head]
        tails = [0, 1, tail]
    found = ["shunting plan read aloud"]
    for head, tail in zip(heads, tails, strict=True):
        found += [_HEADS[head], _LINK, _TAILS[tail]]
    return found


def _stock(chance: Random, number: int, checkpoints: int = 4) -> list[str]:
    """Each of five lines four times and four checkpoints, in any order."""
    found = [_CHECKPOINT] * checkpoints + list(_GOODS) * 4
    chance.shuffle(found)
    return ["stock taking begins today", *found]


def _parcel(chance: Random, number: int, state: str | None = None, ms: float | None = None) -> list[str]:
    """A parcel's four steps."""
    state = state or chance.choice(_STATES)
    ms = ms or max(1.0, chance.gauss(80, 8))
    return [
        "parcel arrives through side entrance",
        f"parcel condition noted as {state}",
        f"weighing took {ms:.0f} ms",
        "parcel leaves by rear exit",
    ]


_NORMAL: Final[tuple[Session, ...]] = (_tour, _chain, _stock, _parcel)

# -- faults: the messages of a faulty session ------------------------------------------------------------------------------


def _crossed(chance: Random, number: int) -> list[str]:
    return _tour(chance, number, ("gold", "gold", "silver"))


def _unseen_triple(chance: Random, number: int) -> list[str]:
    return _chain(chance, 8 * number, is_faulty=True)


def _no_checkpoint(chance: Random, number: int) -> list[str]:
    return _stock(chance, number, checkpoints=0)


def _odd_value(chance: Random, number: int) -> list[str]:
    return _parcel(chance, number, ms=800.0)


def _odd_word(chance: Random, number: int) -> list[str]:
    return _parcel(chance, number, state="toxic")


def _new_line(chance: Random, number: int) -> list[str]:
    found = _parcel(chance, number)
    return [*found[:2], "ceiling collapsed onto conveyor belt", *found[2:]]


#: By name: what it is. A fault of the name of a detector is made for that detector; `text` for those that read texts.
FAULTS: Final[dict[str, str]] = {
    "loggpt": "two desks answer the wrong guests, four lines after these came",
    "ngram": "three lines in a row that never were, each two of them usual, the last one rare",
    "workflow": "the right lines in the right order, nine seconds between two of them instead of half a second",
    "count": "no checkpoint among a score of lines whose order means nothing",
    "frequency": "a heartbeat that stays away for five minutes while other lines go on",
    "deeplog-value": "a time ten times as long",
    "text": "a word never seen where a known line has another word each time",
    "novelty": "a line of a kind never seen",
}
#: The kind of session that each takes the place of, and what it makes of it.
_FAULTY: Final[dict[str, tuple[Session, Session]]] = {
    "loggpt": (_tour, _crossed),
    "ngram": (_chain, _unseen_triple),
    "workflow": (_parcel, _parcel),
    "count": (_stock, _no_checkpoint),
    "deeplog-value": (_parcel, _odd_value),
    "text": (_parcel, _odd_word),
    "novelty": (_parcel, _new_line),
}


# -- lines -----------------------------------------------------------------------------------------------------------------


def learning_lines(params: PlantedParams) -> Iterator[bytes]:
    """Normal lines, by time."""
    lines, _ = _world(params, params.learning, START_MS, "normal", params.seed)
    return map(_record, lines)


def watched_lines(params: PlantedParams, fault: str) -> tuple[Iterator[bytes], list[Place]]:
    """Lines of a later time with one kind of fault, by time, and where the faults are; for `normal` none, and where the sessions are."""
    start = START_MS + params.learning * params.apart_ms + 3_600_000
    lines, places = _world(params, params.watched, start, fault, params.seed + 1)
    return map(_record, lines), places


def _world(params: PlantedParams, sessions: int, start: int, fault: str, seed: int) -> tuple[list[Line], list[Place]]:
    chance = Random(seed)
    usual, odd = _FAULTY.get(fault, (None, None))
    like = [number for number in range(sessions - _LAST) if _NORMAL[number % len(_NORMAL)] is usual]
    faulty = set(chance.sample(like, params.faulty)) if odd is not None else set()
    lines: list[Line] = []
    places: list[Place] = []
    for number in range(sessions):
        name = f"{fault}-{seed}-{number}"
        is_faulty = number in faulty
        kind = odd if is_faulty and odd is not None else _NORMAL[number % len(_NORMAL)]
        ts = start + number * params.apart_ms + chance.randrange(params.apart_ms)
        first = ts
        for at, message in enumerate(kind(chance, number // len(_NORMAL))):
            ts += chance.randint(*_STEP_MS) + (_SLOW_MS if is_faulty and fault == "workflow" and at == 3 else 0)
            lines.append((ts, YARD, name, message))
        if is_faulty or fault == "normal":
            places.append(Place(group_key(YARD, name), first, ts))
    end = start + sessions * params.apart_ms
    silence = range(start + 60_000, start + 60_000 + _SILENT_MS) if fault == "frequency" else range(0)
    if silence:
        end += _SILENT_MS
        places.append(Place(group_key(PUMP, None), silence.start, silence.stop))
    lines += [
        (ts, PUMP, None, "heartbeat received from pump") for ts in range(start, end, _BEAT_MS) if ts not in silence
    ]
    ts = start
    while ts < end:
        ts += chance.randint(1_000, 6_000)
        lines.append((ts, PUMP, None, "pressure within limits everywhere"))
    return sorted(lines, key=lambda line: line[0]), places


def _record(line: Line) -> bytes:
    ts, service, session, message = line
    record = {"@timestamp": iso_time(ts), "service": service, "message": message}
    return json.dumps(record if session is None else {**record, "session": session}).encode()
