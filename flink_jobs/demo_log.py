"""The two parts of a demo's log: one to learn from, one to watch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import DataSetError

if TYPE_CHECKING:
    from models.sample.truth import Truth

_LEARN_RATIO = 0.6
_LEAST_LINES = 1_000


@dataclass(frozen=True)
class DemoLog:
    """The log of a demo in two files, and its truth where there is one."""

    learn_file: Path
    rest_file: Path
    learn_lines: int
    rest_lines: int
    truth: Truth | None = None
    note: str = ""


def sample_log(folder: Path, requests: int, seed: int) -> DemoLog:
    """The shop's log (`models.sample.shop`), cut at the end of its normal part."""
    from models.sample.shop import ShopParams, generate
    from models.sample.truth import Truth

    learn_file, rest_file = folder / "learn.log", folder / "rest.log"
    truth = Truth()
    with learn_file.open("wb") as learn_out, rest_file.open("wb") as rest_out:
        for line in generate(ShopParams(requests=requests, seed=seed)):
            truth.add(line)
            (learn_out if line.is_learning else rest_out).write(line.value + b"\n")
    rest_lines = truth.messages - truth.learning_messages
    note = f"; {len(truth.faults)} faults are hidden in them"
    return DemoLog(learn_file, rest_file, truth.learning_messages, rest_lines, truth, note)


def own_log(source: Path, folder: Path) -> DemoLog:
    """A user's log, cut at the time by which 60 % of its lines had come.

    Raises:
        DataSetError: the file is missing, damaged, or too short to learn from.
    """
    import numpy as np

    from flink_jobs.feed import event_times
    from models.datasets import read_lines

    times: list[int] = []
    last = 0
    for block in _blocks(read_lines(source), 10_000):
        for ts in event_times(block):
            last = last if ts is None else ts
            times.append(last)
    if len(times) < _LEAST_LINES:
        raise DataSetError(
            f"{source} has {len(times):,} lines; the demo needs at least {_LEAST_LINES:,} to learn from and to watch"
        )
    order = np.argsort(np.asarray(times), kind="stable")
    is_learning = np.zeros(len(times), dtype=bool)
    is_learning[order[: int(len(times) * _LEARN_RATIO)]] = True
    learn_file, rest_file = folder / "learn.log", folder / "rest.log"
    with learn_file.open("wb") as learn_out, rest_file.open("wb") as rest_out:
        for line, learns in zip(read_lines(source), is_learning.tolist(), strict=True):
            (learn_out if learns else rest_out).write(line + b"\n")
    learned = int(is_learning.sum())
    return DemoLog(learn_file, rest_file, learned, len(times) - learned)


def _blocks(lines: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while block := list(islice(lines, size)):
        yield block
