"""What detectors cost: the core in this process, no Flink; all ways of voting take turns on the same batches, so that ratios hold on a noisy machine.

```
lines ─ parse, redact, mask, pack ─→ batches ─┬─ Shard: DeepLog alone
                                              ├─ Shard: all that judge every line
                                              └─ Shard: the same, and the second opinion on what it tells
```
"""

from __future__ import annotations

import gc
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import numpy as np

from models.artefact import Artefact
from models.batch import BatchParams
from models.datasets import to_batches
from models.deeplog import FIRST_TEMPLATE
from models.detectors.registry import REGISTRY
from models.fitting import FitParams
from models.fusion import FusionParams
from models.packing import Lines, unpack
from models.sample.bench import BenchParams, bench_lines
from models.second_opinion import SecondOpinion
from models.shard import Shard, ShardParams
from models.train import CHEAP, TrainParams, train

Say = Callable[[str], None]

HEAVY: Final = tuple(name for name, kind in REGISTRY.items() if kind.is_heavy)
TEMPLATES: Final = (100, 300, 1_000, 3_000)
_BATCH: Final = 10_000
_WARM: Final = 1 / 3  # of the batches: memos fill and templates are made
_WORLD: Final = 320  # templates that one world of bench lines has at most; more come from worlds with other words
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MESSAGE: Final = b'"message":"'


def detector_figures(lines: int, train_lines: int, say: Say) -> dict[str, Any]:
    """Every figure of the part `detectors` of the bench.

    `ratio_cheap`, `ratio_all`: lines a second of the whole core with all detectors that judge every line, and with the second opinion of the
    heavy ones as well, against DeepLog alone. `detect_us`: the detection step alone, µs a line. `told_ratio`: share of the lines that become
    anomalies, by way of voting, at the default budget: what the second opinion has to look at, and rendering one costs as much as judging hundreds of lines. `cost_by_templates`: detection, µs a line, by the number of distinct templates.

    Args:
        lines: measured, of which a third warms up.
        train_lines: that the models learn from.
        say: takes one line of progress.
    """
    gc.set_threshold(20_000)  # as the job's workers have it (udfs/worker.py)
    say("detectors: training all of them")
    artefact = _trained(_WORLD, train_lines, (*CHEAP, *HEAVY))
    batches, core_us = _packed(bench_world(_WORLD, lines, seed=1))
    lanes = [
        _Lane.of("deeplog", artefact, ("deeplog",), batches),
        _Lane.of("cheap", artefact, CHEAP, batches),
        _Lane.of("all", artefact, (*CHEAP, *HEAVY), batches),
    ]
    say(f"detectors: {len(lanes)} ways of voting in turns on {len(batches)} batches")
    cost = take_turns(lanes)
    whole = {name: core_us + detect for name, detect in cost.items()}
    figures: dict[str, Any] = {
        "ratio_cheap": whole["deeplog"] / whole["cheap"],
        "ratio_all": whole["deeplog"] / whole["all"],
        "ratio_cheap_detect": cost["deeplog"] / cost["cheap"],
        "ratio_all_detect": cost["deeplog"] / cost["all"],
        "parse_us": core_us,
        "detect_us": cost,
        "told_ratio": {lane.name: lane.told / sum(map(len, batches)) for lane in lanes},
    }
    lanes, mined = [], {}
    for templates in TEMPLATES:
        say(f"detectors: training on {templates:,} templates")
        artefact = _trained(templates, max(train_lines, 50 * templates), CHEAP)
        mined[templates] = len(artefact.vocabulary) - FIRST_TEMPLATE
        batches, _ = _packed(bench_world(templates, lines // 2, seed=1))
        lanes += [
            _Lane.of(f"{templates} deeplog", artefact, ("deeplog",), batches),
            _Lane.of(f"{templates} cheap", artefact, CHEAP, batches),
        ]
    say("detectors: numbers of templates in turns")
    cost = take_turns(lanes)
    figures["cost_by_templates"] = {
        str(templates): {"mined": mined[templates], **{way: cost[f"{templates} {way}"] for way in ("deeplog", "cheap")}}
        for templates in TEMPLATES
    }
    return figures


@dataclass
class _Lane:
    """One way of voting with its own shard; `told` counts its anomalies."""

    name: str
    shard: Shard
    second: SecondOpinion | None
    batches: Sequence[Lines]
    told: int = 0
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, artefact: Artefact, detectors: tuple[str, ...], batches: Sequence[Lines]) -> _Lane:
        params = ShardParams(fusion=FusionParams(detectors=detectors))
        models = {artefact.service: artefact}
        has_heavy = any(name in HEAVY for name in detectors)
        second = SecondOpinion(models, params.templates, params.fusion) if has_heavy else None
        return cls(name, params.build(models), second, batches)

    def step(self, number: int) -> None:
        """Judge one batch, on the clock."""
        started = time.perf_counter()
        told = [blob for _, blob in self.shard.step(self.batches[number]).anomalies]
        if self.second is not None:
            self.second.step(told)
        self.seconds.append(time.perf_counter() - started)
        self.told += len(told)

    def us_a_line(self) -> float:
        """The median batch after the warm-up."""
        steady = range(int(len(self.seconds) * _WARM), len(self.seconds))
        return float(np.median([self.seconds[at] / len(self.batches[at]) for at in steady])) * 1e6


def take_turns(lanes: Sequence[_Lane]) -> dict[str, float]:
    """µs a line of each lane; batch by batch, each lane first in its turn, for as many batches as all have."""
    gc.collect()
    gc.freeze()
    try:
        for number in range(min(len(lane.batches) for lane in lanes)):
            for at in range(len(lanes)):
                lanes[(number + at) % len(lanes)].step(number)
    finally:
        gc.unfreeze()
    return {lane.name: lane.us_a_line() for lane in lanes}


def bench_world(templates: int, lines: int, seed: int = 0) -> Iterator[bytes]:
    """Bench lines with so many distinct templates: several worlds side by side with other words, which take turns line by line."""
    worlds = -(-templates // _WORLD)
    per_world = lines // worlds // _BATCH * _BATCH or lines // worlds
    params = BenchParams(
        lines=per_world,
        templates=templates // worlds,
        open_sessions=max(1, 600 // worlds),
        lines_per_s=10_000 // worlds,
        services=max(1, -(-templates // worlds // 64)),  # as many as walk all workflows
    )
    blocks = [
        map(lambda block, world=world: [_reworded(line, world) for line in block], bench_lines(one, _BATCH // worlds))  # type: ignore[misc]
        for world, one in enumerate(replace(params, seed=params.seed + seed + 100 * world) for world in range(worlds))
    ]
    for together in zip(*blocks, strict=True):
        yield from chain.from_iterable(zip(*together, strict=True))


def _reworded(line: bytes, world: int) -> bytes:
    """The line with the letters of its message moved on in the alphabet, each half by a number of steps that its first two words and the world decide."""
    if not world:
        return line
    head, mark, message = line.partition(_MESSAGE)
    first, second, *_ = message.split(b" ", 2)
    chance = zlib.crc32(first + second + bytes([world]))
    middle = len(first) + len(second) + (len(message) - len(first) - len(second)) // 3
    moved = message[:middle].translate(_MOVED[chance % 25]), message[middle:].translate(_MOVED[chance // 25 % 25])
    return head + mark + b"".join(moved)


def _moved(by: int) -> bytes:
    turned = _LETTERS[by:] + _LETTERS[:by]
    return bytes.maketrans((_LETTERS + _LETTERS.upper()).encode(), (turned + turned.upper()).encode())


_MOVED: Final = [_moved(by) for by in range(1, 26)]


def _trained(templates: int, lines: int, detectors: tuple[str, ...]) -> Artefact:
    params = TrainParams(detectors=detectors, fit=FitParams(max_steps=2_000))
    return train(to_batches(bench_world(templates, lines)), None, params, default=True).artefacts["default"]


def _packed(lines: Iterator[bytes]) -> tuple[list[Lines], float]:
    """The batches as the shard gets them, and what the way there costs, µs a line, by the median batch."""
    batcher = BatchParams(shards=1).build()
    batches, cost = [], []
    for raw in to_batches(lines, size=_BATCH):
        started = time.perf_counter()
        ((_, blob),) = batcher.step(raw)
        found = unpack(blob)
        cost.append((time.perf_counter() - started) / len(raw.values))
        batches.append(found)
    return batches, float(np.median(cost[len(cost) // 3 :])) * 1e6
