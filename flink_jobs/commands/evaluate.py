"""`driftwood evaluate`: a labelled data set in, figures out; or an unlabelled log, scored."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flink_jobs.commands.run import parse_sets
from models.errors import DataSetError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from flink_jobs.settings import Settings
    from models.artefact import Artefact
    from models.datasets import DataSet
    from models.opinions import Opinions

_FIGURES = ("precision", "recall", "f1", "auc", "pr_auc", "false_alarm_ratio", "alerts_per_hour", "median_delay_s")


def command(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A data set folder; or, with --model, any log file to be scored. --study planted needs none."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of models. Default: train on the data set's own training part.")
    ] = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="Which vote, with commas between. Default: all that judge every line, or all that --model has."
        ),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write the report as one HTML page to this file.")] = None,
    through: Annotated[
        str,
        typer.Option(
            help="core: without Flink; job: the job on a mini-cluster; cluster: a broker and a standalone cluster."
        ),
    ] = "core",
    parser: Annotated[
        str, typer.Option(help="Sets of templates only, to compare with: drain, drain3, spell or iplom.")
    ] = "drain",
    masks: Annotated[str, typer.Option(help="Sets of templates only: default, five or none.")] = "default",
    words: Annotated[
        str, typer.Option(help="Sets of templates only: which words part templates, all, half, keep or none.")
    ] = "all",
    study: Annotated[
        str | None,
        typer.Option(
            help="Instead of an evaluation, one table of docs/measurements.md: loggpt, texts, contamination or planted."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every anomaly to this file, one JSON a line.")] = None,
    hide_levels: Annotated[
        bool, typer.Option("--hide-levels", help="Blank the level field and level words at the head of messages.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    device: Annotated[str, typer.Option(help="Of the training: auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML) of the job.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any of the job's settings, NAME=VALUE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measures how well anomalies fall where the labels say; training and scoring never see the labels.

    A unit is flagged when an anomaly falls in it. Thresholds come from the training part alone.
    """
    import torch
    from rich.console import Console

    from flink_jobs.settings import load
    from models.datasets import DataSet

    if through not in ("core", "job", "cluster"):
        raise SettingsError(f"--through is {through!r}; choose core, job or cluster.")
    settings = load(config, **{**parse_sets(sets or []), "detectors": detectors})
    torch.set_num_threads(threads)
    err = Console(stderr=True, highlight=False)
    if study is not None:
        figures = _study(study, data, settings, hide_levels, seed, device, err)
        _give(figures, report, as_json, _print_study)
        return
    if data is None:
        raise DataSetError("there is nothing to evaluate: name a data set folder, or a log file and --model.")
    if (data / "dataset.json").exists():
        dataset = DataSet.open(data)
    elif data.is_dir():
        raise DataSetError(f"{data / 'dataset.json'} is missing; give a data set folder, or a log file and --model.")
    elif not data.exists():
        raise DataSetError(f"{data} is not there; check the path (the current folder is {Path.cwd()}).")
    elif model is None:
        raise DataSetError(f"{data} is a file without a training part; add --model DIR to score it.")
    else:
        dataset = DataSet(folder=data.parent, name=data.name, unit="line", logs=data, units=())
    if dataset.unit == "template":
        figures = _templates(dataset, settings, parser, masks, words)
    elif (parser, masks, words) != ("drain", "default", "all"):
        raise SettingsError(f"--parser, --masks and --words are for sets of templates; {data} is none.")
    else:
        options = [*([f"--config={config}"] if config else []), *(f"--set={pair}" for pair in sets or [])]
        options += [f"--set=detectors={detectors}"] if detectors else []
        figures = _score(dataset, model, settings, options, through, out, hide_levels, seed, device, err)
    _give(figures, report, as_json, _print)
    if page is not None:
        _write(page, _page(figures))
    for what, path in (("page", page), ("anomalies", out)):
        if path is not None and not as_json:
            typer.echo(f"{what}: {path}")


def _give(
    figures: Mapping[str, Any], report: Path | None, as_json: bool, show: Callable[[Mapping[str, Any]], None]
) -> None:
    """Write figures to the report, and show them."""
    import orjson

    text = orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode()
    if report is not None:
        _write(report, text + "\n")
    if as_json:
        typer.echo(text)
        return
    show(figures)
    if report is not None:
        typer.echo(f"report: {report}")


def _study(
    name: str, data: Path | None, settings: Settings, hide_levels: bool, seed: int, device: str, err: Console
) -> dict[str, Any]:
    from flink_jobs.job import core_params
    from models.datasets import DataSet
    from models.detectors.registry import REGISTRY
    from models.fitting import FitParams
    from models.studies import STUDIES, Subject, study
    from models.train import CHEAP, TrainParams

    if name not in STUDIES:
        raise SettingsError(f"--study is {name!r}; choose from {', '.join(STUDIES)}.")
    batching, shards = core_params(settings)
    params = TrainParams(
        fit=FitParams(device=device),
        embedding=settings.embedding,
        suspicious_ratio=settings.suspicious_ratio,
        seed=seed,
        detectors=settings.detectors or (tuple(REGISTRY) if name == "planted" else CHEAP),
        windows=shards.windows,
        templates=shards.templates,
        traces=shards.traces,
        batching=batching,
    )
    if data is not None and not (data / "dataset.json").is_file():
        raise DataSetError(f"{data} is no data set folder (it holds no dataset.json); a study needs one with labels.")
    dataset = None if data is None else DataSet.open(data)

    def say(line: str) -> None:
        err.print(line, markup=False)

    return study(name, Subject(dataset, params, shards, is_level_hidden=hide_levels, say=say))


def _print_study(figures: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = figures["rows"]
    table = Table(box=None, header_style="bold")
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) if isinstance(value, float | None) else str(value) for value in row.values()))
    typer.echo(f"{figures['dataset'] or 'planted faults'}: {figures['about']}")
    Console().print(table)


def _templates(dataset: DataSet, settings: Settings, parser: str, masks: str, words: str) -> dict[str, Any]:
    from flink_jobs.job import core_params
    from models.comparison import compared_params, miner
    from models.grouping import evaluate_templates

    params = compared_params(core_params(settings)[1].templates, masks, words)
    figures = evaluate_templates(dataset.folder, lambda: miner(parser, params))
    return figures | {"parser": parser, "masks": masks, "words": words, "data_sha256": dataset.sha256()}


def _score(
    dataset: DataSet,
    model: Path | None,
    settings: Settings,
    options: list[str],
    through: str,
    out: Path | None,
    hide_levels: bool,
    seed: int,
    device: str,
    err: Console,
) -> dict[str, Any]:
    import orjson

    from flink_jobs.job import core_params
    from models.artefact import load_all, save
    from models.evaluate import Anomaly, evaluate, opinions_of

    with contextlib.ExitStack() as stack:
        models = _train(dataset, settings, hide_levels, seed, device, err) if model is None else load_all(model)
        if not models:
            raise DataSetError(f"{model} holds no model; train one with `driftwood train`.")
        if through != "core" and model is None:
            model = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftwood-models-")))
            for artefact in models.values():
                save(artefact, model)
        progress = stack.enter_context(_progress(err))
        opinions = opinions_of(models, core_params(settings)[1]) if through == "core" and dataset.units else None
        if through == "job":
            from flink_jobs.through_job import score_through_job

            assert model is not None
            folder = model

            def score(lines: Iterable[bytes]) -> Iterable[Anomaly]:
                return score_through_job(lines, folder, settings)

        elif through == "cluster":
            from flink_jobs.through_cluster import score_through_cluster

            assert model is not None
            artefacts = model

            def score(lines: Iterable[bytes]) -> Iterable[Anomaly]:
                return score_through_cluster(lines, artefacts, options)

        else:
            score = _core(dataset, settings, models, progress, opinions)
        file = None if out is None else stack.enter_context(_opened(out))

        def keep(anomaly: Anomaly) -> None:
            if file is not None:
                file.write(orjson.dumps(anomaly) + b"\n")

        versions = {name: artefact.version for name, artefact in models.items()}
        figures = evaluate(
            dataset, score, opinions=opinions, is_level_hidden=hide_levels, keep=keep, versions=versions, seed=seed
        )
    return figures | {"through": through, "models": versions}


def _page(figures: Mapping[str, Any]) -> str:
    """The report as HTML; raises DataSetError where there are no labels to report on."""
    from models.report_page import report_page

    if not figures["units"]:
        raise DataSetError(
            "without labels there is no report to make a page of; leave --page out, or use --out for the anomalies."
        )
    return report_page(figures)  # type: ignore[arg-type] # what build_report gave, and more


def _core(
    dataset: DataSet,
    settings: Settings,
    models: Mapping[str, Artefact],
    progress: Callable[[int, int], None],
    opinions: Opinions | None,
) -> Callable[[Iterable[bytes]], Iterable[Mapping[str, Any]]]:
    from flink_jobs.job import core_params
    from models.evaluate import score_through_core
    from models.train import batching_of

    batching, shards = core_params(settings)
    batching = batching_of(dataset, batching)
    return lambda lines: score_through_core(lines, models, batching, shards, progress, opinions)


def _train(
    dataset: DataSet, settings: Settings, hide_levels: bool, seed: int, device: str, err: Console
) -> dict[str, Artefact]:
    from flink_jobs.commands.train import Steps, tell_left_out
    from flink_jobs.job import core_params
    from models.datasets import to_batches
    from models.evaluate import log_lines
    from models.fitting import FitParams, pick_device
    from models.train import CHEAP, TrainParams, batching_of, train

    if not dataset.has_training_part:
        raise DataSetError(f"{dataset.folder} has no training part; add --model DIR.")
    batching, shards = core_params(settings)
    params = TrainParams(
        fit=FitParams(device=device),
        embedding=settings.embedding,
        suspicious_ratio=settings.suspicious_ratio,
        seed=seed,
        detectors=settings.detectors or CHEAP,
        windows=shards.windows,
        templates=shards.templates,
        traces=shards.traces,
        batching=batching_of(dataset, batching),
    )
    err.print(f"training on the data set's training part; device: {pick_device(device)} (asked for: {device})")
    lines = log_lines(dataset, is_level_hidden=hide_levels)
    with Steps(err) as steps:
        trained = train(
            steps.reading(to_batches(lines)),
            None,
            params,
            is_training=dataset.is_training,
            report=steps.learning,
            source=dataset.name,
        )
    for name, count in trained.skipped.items():
        err.print(f"{name}: only {count} training lines, so no model and no verdict", markup=False)
    tell_left_out(trained, err)
    return trained.artefacts


@contextlib.contextmanager
def _progress(err: Console) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("scoring", total=None)
        yield lambda lines, found: progress.update(task, description=f"scoring: {lines:,} lines, {found:,} anomalies")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = path.open("wb")
    except OSError as error:
        raise DataSetError(f"{path} cannot be written: {error.strerror}; choose another --out.") from error
    with file:
        yield file


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataSetError(f"{path} cannot be written: {error.strerror}; choose another --report.") from error


def _print(figures: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    if figures["unit"] == "template":
        columns = ("grouping_accuracy", "grouping_accuracy_raw")
        rows = {**figures["systems"], "average": figures["average"]}
        head = f"{figures['dataset']}: {len(figures['systems'])} systems"
    else:
        columns = _FIGURES
        rows = {**figures["detectors"], **({"fused": figures["fused"]} if figures["fused"] else {})}
        head = (
            f"{figures['dataset']}: {figures['lines']:,} lines at {figures['lines_per_s']:,.0f} a second, "
            f"{figures['anomalies']:,} anomalies"
        )
        if figures["units"]:
            head += f"; {figures['units']:,} labelled {figures['unit']}s, {figures['anomalous']:,} of them anomalous"
    typer.echo(head)
    if not rows:
        for service, count in sorted(figures["by_service"].items(), key=lambda item: -item[1]):
            typer.echo(f"  {service}: {count:,}")
        return
    if figures["unit"] == "template":
        table.add_column("system")
        for name in columns:
            table.add_column(name, justify="right")
        for system, values in rows.items():
            table.add_row(system, *(_shown(values.get(name)) for name in columns))
    else:
        table.add_column("")
        for detector in rows:
            table.add_column(detector, justify="right")
        for name in columns:
            table.add_row(name, *(_shown(values.get(name)) for values in rows.values()))
    Console().print(table)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
