"""Writes a set of golden state: `python -m tests.golden.state.make tests/golden/state/v2`.

A set that was in a release is never written again: its bytes stand for those that installations out there have. A new
version of a state format gets a folder of its own, into which lines (`lines.jsonl`) are put first.

```
model/           trained on `normal()`, unless there is one
lines.jsonl      what came in, in three parts
                 │ FIRST, tick, SECOND, tick: drops the service that was silent, replaces the journal by a snapshot
                 │ THIRD: template entries and journal entries after the snapshot
                 ▼                                    ── the state is written here ──
state.json       template entries · the snapshot · the journal entries after it
templates.json   what the template entries and the statistics rows say, for people
                 │ the rest of the lines
                 ▼
anomalies.jsonl  the verdicts on the rest
```
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from models.artefact import load_all, save
from models.batch import BatchParams
from models.fitting import FitParams
from models.fusion import FusionParams
from models.packing import unpack
from models.parsing import Raw
from models.shard import Shard, ShardParams, Step
from models.templates import TemplateParams
from models.train import TrainParams, train
from models.windows import WindowParams

#: Small bounds, so that few lines meet them: overflow templates, evicted sessions, a dropped service. Nearly all that is odd is told.
PARAMS = ShardParams(
    cluster="golden",
    templates=TemplateParams(max_templates=8, max_templates_shard=16),
    windows=WindowParams(length=4, session_gap_ms=60_000, max_sessions=20, max_services=8),
    fusion=FusionParams(budget_per_day=10_000),
    idle_ticks=1,
)
TRAINING = TrainParams(
    detectors=("deeplog", "novelty", "ngram", "count", "frequency", "workflow"),
    fit=FitParams(hidden=8, epochs=1, min_steps=150, max_steps=150, learning_rate=2e-2, device="cpu"),
    windows=PARAMS.windows,
    min_lines=200,
)
FIRST, SECOND, THIRD = 16, 28, 47  # lines up to the end of each part
_BATCH = 5
_STEPS = ("opened cart for user {}", "added item {} to cart", "priced cart at {} cents", "closed cart of user {}")


def normal() -> list[bytes]:
    """Sessions of two services that go through four steps, and a line without session now and then."""
    lines = []
    for number in range(960):
        service, at = ("cart", "mail")[number % 2], 2_000 * number
        lines += [(at + 500 * step, service, text, f"n-{number}") for step, text in enumerate(_STEPS)]
        lines += [(at, *(("cart", "swept {} stale carts") if number % 2 else ("mail", "queue holds {} letters")), "")]
    return [
        orjson.dumps(
            {"@timestamp": 1_600_000_000_000 + ts, "service": service, "message": text.format(ts % 997 + 1)}
            | ({"session": session} if session else {})
        )
        for ts, service, text, session in sorted(lines)
    ]


def _raw(values: list[bytes], first: int) -> Raw:
    return Raw(
        values=values,
        topic="logs",
        partition=np.zeros(len(values), np.int32),
        offset=np.arange(first, first + len(values), dtype=np.int64),
        timestamp_ms=np.full(len(values), 1_700_000_000_000, np.int64),
    )


def steps(shard: Shard, values: list[bytes], first: int, batch: int) -> Iterator[Step]:
    """What the shard makes of some lines.

    Args:
        shard: whose state they meet.
        values: the lines.
        first: offset of the first.
        batch: lines in a batch.
    """
    batcher = BatchParams(shards=1).build()
    for at in range(0, len(values), batch):
        for _, blob in batcher.step(_raw(values[at : at + batch], first + at)):
            yield shard.step(unpack(blob))


def anomalies(shard: Shard, values: list[bytes], first: int, batch: int) -> list[dict[str, Any]]:
    """The anomalies among some lines, by id and revision; arguments as of `steps`."""
    found = [orjson.loads(blob) for step in steps(shard, values, first, batch) for _, blob in step.anomalies]
    return sorted(found, key=lambda anomaly: (str(anomaly["anomaly_id"]), int(anomaly["revision"])))


def templates(shard: Shard) -> dict[str, dict[str, Any] | None]:
    """Creation number → what the shard knows of the template; None if it was forgotten."""
    of, counts = shard.templates, shard.templates.statistics
    return {
        str(seq): {
            "service": of.service_of[seq],
            "id": int(of.ids[seq]),
            "created": " ".join(of.created(seq)),
            "tokens": " ".join(of.tokens(seq)),
            "lines": counts.lines[seq].tolist(),
            "first_ts": int(counts.first_ts[seq]),
            "last_ts": int(counts.last_ts[seq]),
        }
        if of.created(seq)
        else None
        for seq in range(len(of))
    }


def write(folder: Path) -> None:
    """Writes the set; the folder holds the lines, and no state yet.

    Raises:
        FileExistsError: there is state already.
    """
    values = (folder / "lines.jsonl").read_bytes().splitlines()
    if not (folder / "model").exists():
        trained = train([_raw(normal(), 0)], None, TRAINING, default=True, source="make.py")
        save(replace(trained.artefacts["default"], created=""), folder / "model")
    models = load_all(folder / "model")
    shard, entries, journal = PARAMS.build(models), dict[str, bytes](), list[bytes]()

    def follow(first: int, last: int) -> None:
        for step in steps(shard, values[first:last], first, _BATCH):
            entries.update(step.writes.entries)
            journal.append(step.writes.journal)

    for first, last in ((0, FIRST), (FIRST, SECOND)):
        follow(first, last)
        writes = shard.tick()
        for key in writes.dropped:
            del entries[key]
        journal = [writes.journal]
    follow(SECOND, THIRD)

    snapshot, *rest = journal
    state = {
        "entries": {key: base64.b64encode(entry).decode() for key, entry in entries.items()},
        "snapshot": base64.b64encode(snapshot).decode(),
        "journal": [base64.b64encode(entry).decode() for entry in rest],
    }
    with (folder / "state.json").open("xb") as file:
        file.write(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    (folder / "templates.json").write_bytes(orjson.dumps(templates(shard), option=orjson.OPT_INDENT_2))
    found = anomalies(shard, values[THIRD:], THIRD, _BATCH)
    (folder / "anomalies.jsonl").write_bytes(b"".join(orjson.dumps(anomaly) + b"\n" for anomaly in found))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
