"""`driftwood templates`: the templates of a log file, and the template of each of its lines."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from models.errors import DataSetError

if TYPE_CHECKING:
    from models.grouping import Grouped

_BATCH_LINES = 10_000
_PROBE_BYTES = 4_096


def command(
    file: Annotated[Path, typer.Argument(help="Plain, .gz or .zst; one log line a line, or a CSV file.")],
    out: Annotated[
        Path | None, typer.Option(help="Write LineId, EventId, EventTemplate of every line to this CSV file.")
    ] = None,
    csv_column: Annotated[
        str | None, typer.Option(help="FILE is a CSV file with a header; the messages are in this column.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of the table that is printed.")] = 50,
    parser: Annotated[
        str, typer.Option(help="drain; to compare with: drain3, spell or iplom, all lines in memory.")
    ] = "drain",
    as_json: Annotated[bool, typer.Option("--json", help="Print all templates as JSON.")] = False,
) -> None:
    """Mines the templates of FILE and prints them with their counts.

    Raw lines lose their head (time, level, host, process) first, as in the job, and then whatever other columns they all
    begin with; a CSV column is taken as it is.
    """
    import orjson
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from models.comparison import miner as miner_of

    miner = miner_of(parser)
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with (
        _opened(file) as (raw, plain),
        Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress,
    ):
        task = progress.add_task("mining", total=file.stat().st_size)
        for batch in _messages(plain, file, csv_column):
            miner.add(batch)
            progress.update(task, completed=raw.tell(), description=f"{miner.lines:,} lines")
    if not miner.lines:
        raise DataSetError(f"{file} holds no lines; is it the right file?")
    found = miner.grouped()
    if out is not None:
        _write(out, found)
    counts = found.counts()
    order = sorted(range(len(counts)), key=lambda number: (-counts[number], number))
    shown = [
        {"event_id": _event(found, number), "count": counts[number], "template": found.templates[number]}
        for number in order
    ]
    if as_json:
        typer.echo(
            orjson.dumps({"file": str(file), "lines": miner.lines, "templates": shown}, option=orjson.OPT_INDENT_2)
        )
        return
    _print_table(shown[:limit])
    rest = f", the {limit} most frequent shown" if len(shown) > limit else ""
    typer.echo(f"{miner.lines:,} lines, {len(shown):,} templates{rest}")
    if out is not None:
        typer.echo(f"every line with its template: {out}")


def _event(found: Grouped, number: int) -> str:
    return f"{found.ids[number]:08x}"


def _print_table(rows: Sequence[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("count", "event", "template", box=None, header_style="bold")
    table.columns[0].justify = "right"
    for row in rows:
        table.add_row(f"{row['count']:,}", str(row["event_id"]), Text(str(row["template"])))
    Console().print(table)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, io.BufferedReader]]:
    """The file itself, whose position tells the progress, and its decompressed bytes."""
    import zstandard

    if path.is_dir():
        raise DataSetError(f"{path} is a folder; name a file in it.")
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            raw.seek(0)
            if head[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as plain:
                    yield raw, io.BufferedReader(plain, 1 << 20)
            elif head == b"\x28\xb5\x2f\xfd":
                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False) as plain:
                    yield raw, io.BufferedReader(plain, 1 << 20)
            else:
                yield raw, raw
    except FileNotFoundError:
        raise DataSetError(f"{path} is not there; check the path (the current folder is {Path.cwd()}).") from None
    except (zstandard.ZstdError, gzip.BadGzipFile, EOFError) as error:
        raise DataSetError(f"{path} is damaged: {error}; decompress it by hand to see how far it reads.") from error
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def _messages(plain: io.BufferedReader, path: Path, csv_column: str | None) -> Iterator[list[str]]:
    """The messages in batches."""
    from models.grouping import Contents

    if b"\0" in plain.peek(_PROBE_BYTES)[:_PROBE_BYTES]:
        raise DataSetError(f"{path} is binary; templates are mined from text lines (plain, .gz or .zst).")
    if csv_column is None:
        contents = Contents(read_ms=int(path.stat().st_mtime * 1000))
        lines = (line.rstrip(b"\r\n") for line in plain)
        while batch := list(itertools.islice(lines, _BATCH_LINES)):
            yield contents.read(batch)
        return
    csv.field_size_limit(1 << 24)
    text = io.TextIOWrapper(plain, "utf-8", "replace", newline="")
    try:
        rows = csv.DictReader(text)
        names = rows.fieldnames or []
        if csv_column not in names:
            raise DataSetError(f"{path} has no column {csv_column!r}; its columns are: {', '.join(names) or 'none'}.")
        texts = (row[csv_column] or "" for row in rows)
        while column := list(itertools.islice(texts, _BATCH_LINES)):
            yield column
    finally:
        text.detach()  # the file is closed where it was opened


def _write(out: Path, found: Grouped) -> None:
    """One row a line of the file."""
    named = [(_event(found, number), text) for number, text in enumerate(found.templates)]
    try:
        with out.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("LineId", "EventId", "EventTemplate"))
            rows.writerows((line, *named[at]) for line, at in enumerate(found.groups, start=1))
    except OSError as error:
        raise DataSetError(f"{out} cannot be written: {error.strerror}; choose another --out.") from error
