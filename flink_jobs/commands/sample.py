"""`driftwood sample`: writes the logs of a small shop of services with injected faults, as a data set folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import DataSetError, SettingsError

if TYPE_CHECKING:
    from models.sample.bench import BenchParams
    from models.sample.shop import ShopParams
    from models.sample.truth import Truth

# zstd's own default level: 250 MB/s, and these lines shrink to a tenth
_ZSTD_LEVEL = 3


def command(
    out_dir: Annotated[
        Path, typer.Argument(help="Folder to write: logs.jsonl.zst, labels.csv, truth.jsonl, dataset.json.")
    ],
    requests: Annotated[int, typer.Option(min=1, help="Requests (profile shop).")] = 3_600,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 7,
    profile: Annotated[
        str, typer.Option(help="shop: services with requests and faults; bench: many templates, no faults.")
    ] = "shop",
    fault_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of faulty requests in the second part.")
    ] = 0.06,
    learn_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests in the first, normal part.")
    ] = 0.6,
    copies: Annotated[int, typer.Option(min=1, help="Copies of the whole shop (eight services each).")] = 1,
    lines: Annotated[int, typer.Option(min=1, help="Lines (profile bench).")] = 1_000_000,
    services: Annotated[int, typer.Option(min=1, help="Services (profile bench).")] = 6,
    sessions: Annotated[int, typer.Option(min=1, help="Open sessions (profile bench).")] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Writes a sample: logs of a small shop with injected faults and their truth, or lines for measuring."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from models.sample.bench import BenchParams
    from models.sample.shop import ShopParams

    if profile not in ("shop", "bench"):
        raise SettingsError(f"--profile {profile}: there are two, shop and bench")
    err = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("writing", total=None)

        def tell(written: int) -> None:
            progress.update(task, description=f"{written:,} lines written")

        try:
            if profile == "shop":
                params = ShopParams(
                    requests=requests, seed=seed, fault_ratio=fault_ratio, learn_ratio=learn_ratio, copies=copies
                )
                truth = write_shop(params, out_dir, tell)
                report: dict[str, object] = {
                    "out": str(out_dir),
                    "lines": truth.messages,
                    "records": truth.records,
                    "learning_lines": truth.learning_messages,
                    "faults": len(truth.faults),
                }
            else:
                bench = BenchParams(lines=lines, services=services, open_sessions=sessions, seed=seed)
                report = {"out": str(out_dir), **write_bench(bench, out_dir, tell)}
        except ValueError as error:
            raise SettingsError(f"the sample cannot be made: {error}") from error
    if as_json:
        typer.echo(json.dumps(report))
    else:
        typer.echo(
            ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{value}" for key, value in report.items())
        )


def write_shop(params: ShopParams, out_dir: Path, tell: Callable[[int], None] = lambda written: None) -> Truth:
    """Writes the shop's data set folder and gives back its truth.

    ```
    logs.jsonl.zst    one message a line, in the order in which collectors send them
    labels.csv        session,label for the sessions after train_until
    truth.jsonl       one fault a line: kind, service, session, start, end, info_only, note, lines
    dataset.json      unit session, train_until
    ```

    Raises:
        DataSetError: the folder cannot be written, or holds another data set.
    """
    from models.sample.shop import generate
    from models.sample.truth import Truth, dataset_json

    truth = Truth()

    def values() -> Iterator[bytes]:
        for line in generate(params):
            truth.add(line)
            yield line.value

    _write_lines(out_dir, ([value] for value in values()), tell)
    with (out_dir / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("session", "label"), *truth.labels.items()])
    with (out_dir / "truth.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record.to_dict()) + "\n" for record in truth.faults.values())
    _write_json(out_dir / "dataset.json", dataset_json(truth, out_dir.name, params.seed))
    return truth


def write_bench(
    params: BenchParams, out_dir: Path, tell: Callable[[int], None] = lambda written: None
) -> dict[str, object]:
    """Writes lines for measuring (`logs.jsonl.zst` and `bench.json` with what they are); gives back the latter."""
    from dataclasses import asdict

    from models.sample.bench import bench_lines

    _write_lines(out_dir, bench_lines(params), tell)
    report: dict[str, object] = asdict(params)
    _write_json(out_dir / "bench.json", report)
    return report


def _write_lines(out_dir: Path, blocks: Iterator[list[bytes]], tell: Callable[[int], None]) -> None:
    import zstandard

    held = {path.name for path in out_dir.iterdir()} if out_dir.is_dir() else set()
    if held - {"logs.jsonl.zst", "labels.csv", "truth.jsonl", "dataset.json", "bench.json"}:
        raise DataSetError(f"{out_dir} holds files that are not a sample's; name a folder that is new or empty")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        written = 0
        with (out_dir / "logs.jsonl.zst").open("wb") as file:
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
            with compressor.stream_writer(file) as writer:
                for block in blocks:
                    writer.write(b"\n".join(block) + b"\n")
                    written += len(block)
                    if written % 5_000 < len(block):
                        tell(written)
    except OSError as error:
        raise DataSetError(f"{out_dir} cannot be written: {error.strerror}; name another folder") from error


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
