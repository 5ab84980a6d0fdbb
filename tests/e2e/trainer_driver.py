"""Runs `driftwood trainer` and kills its own process, as a crash would, at a named point: `python -m tests.e2e.trainer_driver POINT ARGS…`.

The points are the calls that change something outside the process, each before and after, and the middle of training.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from flink_jobs import cli
from flink_jobs.trainer import trainer
from flink_jobs.trainer.control_topic import ControlTopic
from flink_jobs.trainer.records import Records
from models import store
from models.store import Store


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(kind: Any, name: str, chosen: Callable[..., bool] = lambda *args, **options: True) -> None:
    """The process dies when the method is called."""
    usual = getattr(kind, name)

    def call(*args: Any, **options: Any) -> Any:
        if chosen(*args, **options):
            die()
        return usual(*args, **options)

    setattr(kind, name, call)


def after(kind: Any, name: str) -> None:
    """The process dies when the method has done its work."""
    usual = getattr(kind, name)

    def call(*args: Any, **options: Any) -> Any:
        usual(*args, **options)
        die()

    setattr(kind, name, call)


def halfway_written() -> None:
    """The process dies when some of a version's files are written, beside the place where they will be."""
    usual = store.save

    def save(artefact: Any, folder: Any) -> Any:
        path = usual(artefact, folder)
        (path / "manifest.json").unlink()
        die()
        return path

    store.save = save


POINTS: dict[str, Callable[[], None]] = {
    "while training": lambda: before(trainer._Progress, "tell", lambda self, what, done, loss: done > 0.5),
    "before the intent": lambda: before(Records, "write", lambda self, service, fields: "publishing" in fields),
    "before the store": lambda: before(Store, "save"),
    "halfway through the store": halfway_written,
    "between store and topic": lambda: after(Store, "save"),
    "after the topic": lambda: after(ControlTopic, "send"),
    "after the record": lambda: after(Records, "finish"),
}

if __name__ == "__main__":
    point = sys.argv.pop(1)
    if point:
        POINTS[point]()
    cli.main()
