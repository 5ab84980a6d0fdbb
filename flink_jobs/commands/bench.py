"""`driftwood bench`: speed and latency of the job, as ratios from one run on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Guarantee = Literal["exactly-once", "at-least-once"]
PARTS = ("speed", "services", "sessions", "memory", "latency", "detectors")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="a fifth of the lines: a look, not a measurement")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"one part: {', '.join(PARTS)}; repeatable")] = None,
    guarantee: Annotated[Guarantee, typer.Option(help="of the job's Kafka sinks")] = "exactly-once",
) -> None:
    """Measure the job against Flink's own floor and against the same work one record at a time.

    A real broker and a standalone cluster with one slot are started; each ratio comes from one run. Only the steady part of each run
    counts. ratio_floor: against Kafka → an Arrow UDF that gives nulls → blackhole;
    ratio_identity: that gives back its input. ratio_source: against Kafka → blackhole.
    ratio_per_record: against the same core with a batch of one. ratio_1000_services, ratio_20000_sessions: against 6 services and 600
    sessions. memory_slope: growth
    over the second half of a run with ever new session ids and words. p50_ms at 100 lines/s, p99_ms at half the top rate, from the broker's time of the line to its anomaly at a consumer.
    ratio_cheap, ratio_all: the core in this process with all detectors that judge every line, and with the second opinion too, against DeepLog
    alone (0.77 and 0.5 are asked for); detect_us and cost_by_templates: detection, µs a line.
    """
    import orjson
    from rich.console import Console
    from rich.table import Table

    from flink_jobs.bench.scenarios import QUICK, BenchSize, run
    from models.errors import SettingsError

    wrong = set(only or ()) - set(PARTS)
    if wrong:
        raise SettingsError(f"There is no part {', '.join(sorted(wrong))}; the parts are {', '.join(PARTS)}.")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="driftwood-bench-") as folder:
        figures = run(Path(folder), QUICK if quick else BenchSize(), console.print, tuple(only or ()), guarantee)
    if as_json:
        typer.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        for row, shown in _rows(name, value):
            table.add_row(row, f"{shown:,.3f}" if isinstance(shown, float) else str(shown))
    Console().print(table)


def _rows(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A figure as rows of the table: one, or one for each part of it."""
    if isinstance(value, dict):
        for part, inner in value.items():
            yield from _rows(f"{name} {part}", inner)
    else:
        yield name, value
