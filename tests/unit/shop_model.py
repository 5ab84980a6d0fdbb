"""A shop whose sessions all take the same six steps, and a model of it that is trained in a blink."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence

from models.artefact import Artefact
from models.datasets import to_batches
from models.fitting import FitParams
from models.train import TrainParams, train

STEPS = ("request accepted", "cart loaded", "stock reserved", "payment charged", "mail queued", "request finished")
#: Enough for the network to learn one path.
QUICK_FIT = FitParams(hidden=16, epochs=1, min_steps=80, max_steps=80, learning_rate=2e-2)
#: A network, two detectors without state, one with.
DETECTORS = ("deeplog", "novelty", "ngram", "count")
QUICK = TrainParams(detectors=DETECTORS, fit=QUICK_FIT, min_lines=200)


def record(ts: int, text: str, service: str = "cart", session: str | None = None) -> bytes:
    """One line at a second of the day."""
    found = {
        "@timestamp": f"2024-01-01T{ts // 3600:02}:{ts // 60 % 60:02}:{ts % 60:02}Z",
        "service": service,
        "message": text,
    }
    return json.dumps(found if session is None else {**found, "session": session}).encode()


def shop(sessions: int = 80, start: int = 0, steps: Sequence[str] = STEPS) -> Iterator[bytes]:
    """Sessions of one fixed workflow, two at a time."""
    for number in range(0, sessions, 2):
        for at, text in enumerate(steps):
            for one in (number, number + 1):
                yield record(start + number * 3 + at, text, session=f"s{start}-{one}")


@functools.cache
def shop_model() -> Artefact:
    """A model of the shop's normal sessions."""
    return train(to_batches(shop()), None, QUICK).artefacts["cart"]
