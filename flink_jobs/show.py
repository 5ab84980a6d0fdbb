r"""An anomaly, a summary: what a person reads in a terminal of 80 columns.

Log text never reaches the terminal as it came: control characters, escape sequences and characters that turn the direction
of text are written out (`\x1b`), so that a log line can neither move the cursor nor look like something it is not. Text is
never read as markup.

```
09:14:03.221  payments  INFO  error  0.98                request 39263059f28c105d
  Ledger entry 493022 booked for payment pay-683506
  why       this line is not among the 3 that follow here in normal logs
  values    entry 493022, payment pay-683506
  expected  99.1 %  Captured <*> EUR of payment <*>
             0.4 %  Gateway <*> answered 503, trying again in <*> ms
```
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from models.sample.truth import Summary
from models.visible import visible

_SEVERITY_STYLES = {"critical": "bold white on red", "error": "bold red", "warning": "yellow", "informational": "cyan"}
_MESSAGE_CHARS = 600
_MESSAGE_LINES = 4
_EXPECTED = 3
_PARAMETERS = 6


def event_time(ts: object) -> str:
    """The time of day of an anomaly's `ts` (milliseconds or ISO 8601), UTC, with milliseconds; `?` if it is neither.

    >>> event_time(1_772_442_001_042), event_time("2026-03-02T09:00:01.042Z"), event_time(None)
    ('09:00:01.042', '09:00:01.042', '?')
    """
    try:
        if isinstance(ts, int | float):
            when = datetime.fromtimestamp(ts / 1000, UTC)
        else:
            when = datetime.fromisoformat(str(ts)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return "?"
    return when.strftime("%H:%M:%S.") + f"{when.microsecond // 1000:03d}"


def anomaly_view(anomaly: Mapping[str, object]) -> RenderableType:
    """One anomaly of the contract as something rich can print; fields that are null are left out."""
    rows: list[RenderableType] = [_head(anomaly), *_message(anomaly)]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    if anomaly.get("explanation"):
        facts.add_row("why", Text(visible(anomaly["explanation"])))
    values = _values(anomaly.get("parameters"))
    if values:
        facts.add_row("values", Text(values))
    for label, text in _expected(anomaly.get("expected")):
        facts.add_row(label, text)
    count = anomaly.get("count")
    if isinstance(count, int) and count > 1:
        facts.add_row("seen", Text(f"{count} times in this incident"))
    if facts.row_count:
        rows.append(Padding(facts, (0, 0, 0, 2)))
    return Group(*rows, Text(""))


def print_anomaly(console: Console, anomaly: Mapping[str, object]) -> None:
    """Prints one anomaly."""
    console.print(anomaly_view(anomaly), highlight=False, markup=False, emoji=False)


def _head(anomaly: Mapping[str, object]) -> RenderableType:
    severity = str(anomaly.get("severity") or "")
    left = Text(event_time(anomaly.get("ts")), style="dim")
    left.append("  " + visible(anomaly.get("service") or "?"), style="bold not dim")
    if anomaly.get("level"):
        left.append("  " + visible(anomaly["level"]), style="not dim")
    if severity:
        left.append("  " + visible(severity), style=_SEVERITY_STYLES.get(severity, "") or "not dim")
    score = anomaly.get("score")
    if isinstance(score, int | float):
        left.append(f"  {score:.2f}", style="not dim")
    if anomaly.get("status") not in (None, "new"):
        left.append("  " + visible(anomaly["status"]), style="magenta not dim")
    if anomaly.get("mode") == "shadow":
        left.append("  shadow", style="magenta not dim")
    right = Text(f"request {visible(anomaly['session'])}" if anomaly.get("session") else "", style="dim")
    head = Table.grid(expand=True, padding=(0, 1, 0, 0))
    head.add_column(overflow="fold", ratio=1)
    head.add_column(justify="right", no_wrap=True, overflow="ellipsis", max_width=34)
    head.add_row(left, right)
    return head


def _message(anomaly: Mapping[str, object]) -> list[RenderableType]:
    """The message, its parameters set off; at most a few lines of it (a stack trace says where in the first ones)."""
    whole = visible(anomaly.get("message") or "", keep_newlines=True)
    lines = whole[:_MESSAGE_CHARS].replace("\\n", "\n").split("\n")
    text = Text("\n".join(lines[:_MESSAGE_LINES]))
    for parameter in _rows(anomaly.get("parameters")):
        value = visible(parameter.get("value") or "")
        if value:
            text.highlight_words([value], style="bold cyan")
    if len(whole) > _MESSAGE_CHARS or len(lines) > _MESSAGE_LINES:
        text.append(" …", style="dim")
    return [Padding(text, (0, 0, 0, 2))]


def _values(parameters: object) -> str:
    shown = []
    rows = _rows(parameters)
    for parameter in rows[:_PARAMETERS]:
        name, unit = parameter.get("name"), parameter.get("unit")
        value = visible(parameter.get("value") or "")
        shown.append(" ".join(visible(part) for part in (name, value, unit) if part not in (None, "")))
    if len(rows) > _PARAMETERS:
        shown.append(f"and {len(rows) - _PARAMETERS} more")
    return ", ".join(shown)


def _expected(expected: object) -> Iterable[tuple[str, Text]]:
    for number, row in enumerate(_rows(expected)[:_EXPECTED]):
        probability = row.get("probability")
        share = f"{100 * probability:5.1f} %  " if isinstance(probability, int | float) else ""
        text = Text(share, style="green")
        text.append(visible(row.get("template") or row.get("template_id") or "?"), style="not green")
        yield ("expected" if number == 0 else ""), text


def _rows(value: object) -> list[Mapping[str, object]]:
    """The mappings of a list field; nothing for null or another type: a view must not fail on an odd anomaly."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return []
    return [row for row in value if isinstance(row, Mapping)]


@dataclass
class Step:
    """A step while it runs: `result` is what came of it, `now` says what it is at."""

    now: Callable[[str], None]
    result: str = ""


@dataclass
class Steps:
    """Prints a line for each step: how long it took, what it was, what came of it."""

    console: Console

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Runs a step, with a spinner where there is a terminal."""
        started = time.monotonic()
        with self.console.status(f"{what} …") as status:
            step = Step(status.update)
            yield step
        line = f"{what}: {step.result}" if step.result else what
        self.console.print(f"{time.monotonic() - started:6.1f} s  {line}", markup=False, soft_wrap=True)


def summary_view(summary: Summary) -> RenderableType:
    """Precision and recall against the truth, by kind of fault."""
    table = Table(box=None, padding=(0, 2, 0, 0), title="against the truth, by request", title_justify="left")
    for name in ("fault", "injected", "found", "recall"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for kind in summary.kinds:
        if kind.faults:
            table.add_row(kind.kind, str(kind.faults), str(kind.found), _percent(kind.recall))
    total = sum(kind.faults for kind in summary.kinds), sum(kind.found for kind in summary.kinds)
    table.add_row("all", str(total[0]), str(total[1]), _percent(summary.recall), style="bold")
    note = Text(f"precision {_percent(summary.precision)}", style="bold")
    note.append(f": {summary.flagged_rightly} of {summary.flagged} flagged requests are faulty", style="not bold")
    if summary.stray:
        note.append(f"; {summary.stray} anomalies of background lines outside any fault", style="not bold")
    return Group(table, note)


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.0f} %"
