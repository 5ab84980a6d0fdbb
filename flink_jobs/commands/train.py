"""`driftwood train`: normal lines in, one model a service out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flink_jobs.commands.run import parse_sets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from models.parsing import Raw
    from models.train import Trained


def command(
    data: Annotated[
        str,
        typer.Argument(
            help="Normal lines: a data set folder, a log file (plain, .gz, .zst), kafka://host:9092/topic, or loki://host?query=…&since=24h."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the models; each goes to OUT/<service>/.")],
    service: Annotated[
        str | None, typer.Option(help="Train for this service only. Default: each that is there.")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="One model for all services together, as OUT/default/.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, device and data: same model.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, help="DeepLog's passes over the distinct windows; it may stop earlier.")
    ] = 60,
    detectors: Annotated[
        str | None, typer.Option(help="Which learn, with commas between. Default: all that judge every line.")
    ] = None,
    min_lines: Annotated[int, typer.Option(min=50, help="Fewer lines of a service train no model.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Of torch on the CPU; batches are small, more gain little.")] = 1,
    config: Annotated[
        Path | None, typer.Option(help="Settings file (TOML) of the job that will use the model.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any of the job's settings, NAME=VALUE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Trains models on normal lines: templates, the detectors, and what normal lines look like to them when they have not learned them.

    Parsing, masking, templates and the session gap are the job's: give the same settings to both.
    """
    import torch
    from rich.console import Console

    from flink_jobs.job import core_params
    from flink_jobs.settings import load
    from flink_jobs.training_input import open_input
    from models.fitting import FitParams, pick_device
    from models.train import TrainParams, batching_of, train

    settings = load(config, **parse_sets(sets or []))
    batching, shard = core_params(settings)
    batches, dataset = open_input(data, settings)
    params = TrainParams(
        fit=FitParams(device=device, epochs=epochs),
        embedding=settings.embedding,
        seed=seed,
        windows=shard.windows,
        templates=shard.templates,
        traces=shard.traces,
        batching=batching if dataset is None else batching_of(dataset, batching),
        suspicious_ratio=settings.suspicious_ratio,
        min_lines=min_lines,
        detectors=detector_names(detectors),
    )
    torch.set_num_threads(threads)
    err = Console(stderr=True, highlight=False)
    err.print(f"device: {pick_device(device)} (asked for: {device})")
    started = time.monotonic()
    with Steps(err) as steps:
        trained = train(
            steps.reading(batches),
            out,
            params,
            service=service,
            default=default,
            is_training=None if dataset is None else dataset.is_training,
            report=steps.learning,
            source=data if dataset is None else dataset.name,
        )
    _tell(trained, time.monotonic() - started, err, as_json)


class Steps:
    """The progress of a training run on the terminal; used as a context manager."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._last = ("", "")

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def reading(self, batches: Iterable[Raw]) -> Iterator[Raw]:
        """Passes the batches on and shows how many records were read."""
        task = self._progress.add_task("reading", total=None, state="")
        count = 0
        for raw in batches:
            yield raw
            count += len(raw.values)
            self._progress.update(task, state=f"{count:,} records")
        self._progress.update(task, total=1, completed=1, state=f"{count:,} records")

    def learning(self, service: str, what: str, done: float, loss: float | None) -> None:
        """Shows how far the training of one service's model has come."""
        state = what if loss is None else f"{what}  loss {loss:.4f}"
        if self._progress.disable:
            if loss is None and self._last != (service, state):
                self._last = (service, state)
                self._console.print(f"{service}: {state}", markup=False, soft_wrap=True)
            return
        if service not in self._tasks:
            self._tasks[service] = self._progress.add_task(f"training {service}", total=1.0, state="")
        self._progress.update(self._tasks[service], completed=done, state=state)


def detector_names(text: str | None) -> tuple[str, ...]:
    """The detectors of a comma-separated option; without one, those that judge every line."""
    from models.train import CHEAP

    return CHEAP if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def tell_left_out(trained: Trained, console: Console, advice: str = "") -> None:
    """Say which sessions were left out of training, by model."""
    from models.trimming import told

    for name, artefact in trained.artefacts.items():
        if words := told(artefact.training["suspicious"]):
            console.print(f"{name}: {words}{advice}", markup=False, soft_wrap=True)


def _tell(trained: Trained, seconds: float, console: Console, as_json: bool) -> None:
    import orjson

    for name, count in trained.skipped.items():
        console.print(
            f"{name}: only {count} lines, no model; give it more, or train one model for all with --default",
            markup=False,
        )
    if trained.left_out:
        console.print(f"{trained.left_out:,} lines beyond the first {trained.lines:,} were left out")
    tell_left_out(trained, console, "; if they are normal, train again with --set suspicious_ratio=0")
    if as_json:
        models = {
            name: {
                "version": artefact.version,
                "folder": str(trained.folders[name]),
                "detectors": {name: dict(learned.facts) for name, learned in artefact.learned.items()},
                "metrics": dict(artefact.metrics),
                "suspicious": artefact.training["suspicious"],
            }
            for name, artefact in trained.artefacts.items()
        }
        outcome = {"models": models, "skipped": trained.skipped, "lines": trained.lines, "rejected": trained.rejected}
        typer.echo(orjson.dumps({**outcome, "seconds": round(seconds, 2)}, option=orjson.OPT_INDENT_2))
        return
    for name, artefact in trained.artefacts.items():
        metrics = artefact.metrics
        typer.echo(
            f"{name}: {metrics['templates']} templates, {', '.join(artefact.learned)}; {metrics['normal_incidents']} odd places among its normal "
            f"lines, told from strength {metrics['threshold']:.1f} on, version {artefact.version} → {trained.folders[name]}"
        )
    typer.echo(f"{trained.lines:,} lines, {trained.rejected:,} rejected, {seconds:.1f} s")
