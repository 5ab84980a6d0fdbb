"""A long run of the core in a process of its own: `python -m tests.engine.memory_run --help`; prints one JSON object a batch.

The lines go through `Batcher` and `Shard`, and what a batch writes is put into two maps, as the keyed operator does (udfs/detect.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from models import artefact
from models.artefact import load_all
from models.batch import BatchParams
from models.detectors.count import CountParams
from models.detectors.workflow import WorkflowParams
from models.fusion import FusionParams
from models.incidents import IncidentParams, Incidents
from models.masking import MaskParams
from models.packing import unpack
from models.parsing import Raw
from models.sample.bench import BenchParams, bench_lines
from models.shard import ShardParams, StateWrites
from models.templates import TemplateParams
from models.windows import SessionWindows, WindowParams
from udfs.worker import settle

SHARDS = 2
BATCH = 1_000
#: A session has a line every two seconds of event time, and lasts for 80; then it is of no more use.
LINES = BenchParams(lines=100_000, open_sessions=200, session_lines=40, lines_per_s=100, random_ratio=0.5)
GAP_MS = 20_000
#: A random word may end as a verb does, and verbs part templates up to a bound that is far beyond this run.
MASKING = MaskParams(event_words=None)
#: The hold of an incident; the default would outlast the run.
HOLD_MS = 20_000
#: Batches, of ten seconds of event time each, between two ticks; the job ticks every five minutes.
TICK = 5
#: Full before the first half of the run is over, as the default is after some 100,000 texts; and more than there are.
MEMO_TEXTS, ALL_TEXTS = 5_000, 10_000_000
#: The same for the sessions that detectors keep, which the default bounds at 50,000 a shard.
KEPT_SESSIONS = 400


@dataclass
class KeyedState:
    """The state of one key."""

    entries: dict[str, bytes] = field(default_factory=dict)
    journal: dict[int, bytes] = field(default_factory=dict)

    def write(self, writes: StateWrites) -> None:
        """Put what a batch gave."""
        self.entries.update(writes.entries)
        for name in writes.dropped:
            del self.entries[name]
        if writes.is_snapshot:
            self.journal.clear()
        self.journal[len(self.journal)] = writes.journal


def run(model: Path, *, forgets: bool) -> None:
    """Sends all lines through the core and prints what is kept after each batch.

    Args:
        model: folder of the model.
        forgets: sessions, incidents and texts are forgotten as they should be; else all are kept, as a fault would keep them.
    """
    torch.set_num_threads(1)
    if forgets:
        bounded = {
            "count": partial(CountParams, max_rows=KEPT_SESSIONS),
            "workflow": partial(WorkflowParams, max_sessions=KEPT_SESSIONS),
        }
        artefact.REGISTRY = {**artefact.REGISTRY, **bounded}  # type: ignore[misc]
    else:
        SessionWindows.expire = lambda self: 0  # type: ignore[method-assign]
        Incidents.expire = lambda self, now: None  # type: ignore[method-assign]
    params = ShardParams(
        templates=TemplateParams(memo_texts=MEMO_TEXTS if forgets else ALL_TEXTS, masking=MASKING),
        windows=WindowParams(session_gap_ms=GAP_MS),
        fusion=FusionParams(incidents=IncidentParams(session_hold_ms=HOLD_MS, service_hold_ms=HOLD_MS)),
        is_unknown_anomalous=False,
    )
    models = load_all(model)
    batcher = BatchParams(shards=SHARDS, masking=MASKING).build()
    shards = {number: params.build(models) for number in range(SHARDS)}
    states = {number: KeyedState() for number in range(SHARDS)}
    settle()
    process, anomalies = psutil.Process(), 0
    for number, values in enumerate(bench_lines(LINES, BATCH)):
        raw = Raw(
            values=values,
            topic="logs",
            partition=np.zeros(len(values), np.int32),
            offset=np.arange(number * BATCH, number * BATCH + len(values), dtype=np.int64),
            timestamp_ms=np.zeros(len(values), np.int64),
        )
        for shard, blob in batcher.step(raw):
            step = shards[shard].step(unpack(blob))
            states[shard].write(step.writes)
            anomalies += len(step.anomalies)
            if number % TICK == 0:
                states[shard].write(shards[shard].tick())
        sample = {
            "lines": (number + 1) * BATCH,
            "sessions": sum(len(shard.windows) for shard in shards.values()),
            "incidents": sum(len(shard.incidents) for shard in shards.values()),
            "entries": sum(len(state.entries) for state in states.values()),
            "entry_bytes": sum(len(entry) for state in states.values() for entry in state.entries.values()),
            "journal_bytes": sum(len(entry) for state in states.values() for entry in state.journal.values()),
            "resident_bytes": process.memory_info().rss,
            "anomalies": anomalies,
        }
        print(json.dumps(sample), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--keep-all", action="store_true")
    options = parser.parse_args(sys.argv[1:])
    run(options.model, forgets=not options.keep_all)
