"""Lines of two small services, a model of them, and shards that read them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import orjson

from models.artefact import Artefact
from models.batch import BatchParams
from models.conformal import NormalScores
from models.fusion import FusionParams
from models.packing import unpack
from models.parsing import Raw
from models.shard import Shard, ShardParams, Step
from models.train import TrainParams, train
from models.windows import WindowParams
from tests.unit.shop_model import QUICK_FIT

GAP_MS = 60_000
WINDOWS = WindowParams(length=4, session_gap_ms=GAP_MS, max_sessions=50)
#: Nearly everything odd is told.
PARAMS = ShardParams(cluster="test", windows=WINDOWS, fusion=FusionParams(budget_per_day=10_000))
DETECTORS = ("deeplog", "novelty", "ngram", "count", "frequency", "workflow")
STEPS = ("opened cart for user {}", "added item {} to cart", "priced cart at {} cents", "closed cart of user {}")
ODD = ("segmentation fault in worker", "a fuse blew somewhere", "no route is left", "watchdog bit twice today", "lost")


def line(ts: int, text: str, service: str = "cart", session: str | None = None) -> bytes:
    record = {"@timestamp": 1_700_000_000_000 + ts, "service": service, "level": "INFO", "message": text}
    return orjson.dumps(record if session is None else {**record, "session": session})


def odd_values(count: int = 120) -> list[bytes]:
    """Lines of two services: walks through four steps in sessions, with jumps, a new template and sessions that just stop.

    After them one service has only one step left, for a minute and a half.
    """
    rng = np.random.default_rng(3)
    lines = []
    for number in range(count):
        session, step = number // 4 % 9, int(rng.integers(0, 4)) if rng.random() < 0.2 else number % 4
        text = STEPS[step].format(int(rng.integers(1, 9_999)))
        if number in (50, 90):
            text = ODD[0]
        service = "cart" if session % 2 else "mail"
        lines.append(line(number * 700, text, service, f"s-{session}" if session else None))
    lines[30] = b"[1, 2"
    lines[31] = b""
    late = [(90_000 + number * 4_500, STEPS[0].format(number + 1), "mail", f"t-{number}") for number in range(20)]
    return lines + [line(*fields) for fields in late]


def raw(values: Sequence[bytes], first: int) -> Raw:
    count = len(values)
    return Raw(
        values=list(values),
        topic="logs",
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count, dtype=np.int64),
        timestamp_ms=np.full(count, 1_700_000_000_000, np.int64),
    )


@functools.cache
def artefact() -> Artefact:
    """A model of sessions that go through the four steps; in weeks, it says, no template stayed away for long."""
    rng = np.random.default_rng(1)
    lines = [
        (number * 2_000 + at * 700 + int(rng.integers(0, 200)), text, "cart" if number % 2 else "mail", f"n-{number}")
        for number in range(120)
        for at, text in enumerate(STEPS)
    ]
    values = [line(ts, text.format(ts % 9_999 + 1), service, session) for ts, text, service, session in sorted(lines)]
    params = TrainParams(detectors=DETECTORS, fit=QUICK_FIT, windows=WINDOWS, min_lines=200)
    artefact = train([raw(values, 0)], None, params, default=True).artefacts["default"]
    calm = {**artefact.calibration.line, "frequency": NormalScores.of(np.zeros(10_000))}
    return replace(artefact, calibration=replace(artefact.calibration, line=calm))


def models() -> dict[str, Artefact]:
    return {"default": artefact()}


def steps(shard: Shard, values: Sequence[bytes], first: int = 0) -> Iterator[Step]:
    for _, blob in BatchParams(shards=1).build().step(raw(values, first)):
        yield shard.step(unpack(blob))
