"""Training: log lines in, one model artefact a service out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from models.artefact import DEFAULT, Artefact, save
from models.batch import BatchParams
from models.datasets import DataSet, read_lines, to_batches
from models.deeplog import DeepLogScorer
from models.errors import DataSetError, SettingsError
from models.fitting import Epoch, Fit, FitParams, fit
from models.parsing import Raw
from models.templates import ShardTemplates, TemplateParams
from models.thresholds import HeldOut, alarms, choose_rule
from models.training_set import Examples, IsTraining, LineCollector, Lines, examples
from models.windows import WindowParams

Report = Callable[[str, Epoch], None]  # (service, epoch)


@dataclass(frozen=True)
class TrainParams:
    """How a model is made.

    Attributes:
        fit: network, epochs, seed, device.
        windows: length of a window, and the gap after which a session's history is forgotten; the job must use the same.
        templates, batching: how lines are parsed, masked and mined; the job must use the same.
        held_out_ratio: share of the sessions, or lines, that the thresholds are chosen on.
        session_alarm_rate: target share of normal sessions flagged.
        line_alarm_rate: target share of normal lines flagged, where lines have no session.
        min_lines: fewer lines of a service train no model.
        max_lines: later lines are left out.
    """

    fit: FitParams = field(default_factory=FitParams)
    windows: WindowParams = field(default_factory=WindowParams)
    templates: TemplateParams = field(default_factory=TemplateParams)
    batching: BatchParams = field(default_factory=BatchParams)
    held_out_ratio: float = 0.2
    session_alarm_rate: float = 0.01
    line_alarm_rate: float = 0.0005
    min_lines: int = 500
    max_lines: int = 5_000_000

    def __post_init__(self) -> None:
        if not 0 < self.held_out_ratio < 0.9:
            raise SettingsError(f"held_out_ratio is {self.held_out_ratio}; give a share above 0, below 0.9.")
        for name in ("session_alarm_rate", "line_alarm_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give a share of at least 0, below 1.")


@dataclass(frozen=True)
class Trained:
    """The outcome of one training run.

    Attributes:
        artefacts: by service.
        folders: where each was written; empty if it was not.
        skipped: services with too few lines, with their number of lines.
        lines, rejected, left_out: lines used, records refused by the parser, lines beyond `max_lines`.
    """

    artefacts: dict[str, Artefact]
    folders: dict[str, Path]
    skipped: dict[str, int]
    lines: int
    rejected: int
    left_out: int


class _Hashed:
    """Passes batches on and keeps the sha256 of all values."""

    def __init__(self, batches: Iterable[Raw]) -> None:
        self._batches = batches
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Raw]:
        for raw in self._batches:
            self._digest.update(b"".join((value or b"") + b"\n" for value in raw.values))
            yield raw

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def train(
    batches: Iterable[Raw],
    out: Path | None,
    params: TrainParams | None = None,
    *,
    service: str | None = None,
    default: bool = False,
    is_training: IsTraining | None = None,
    report: Report = lambda service, epoch: None,
    source: str = "",
) -> Trained:
    """Train one model for each service of some source batches, and write them under `out/<service>/`.

    Args:
        batches: raw records, in source order, as the job would read them.
        out: where to write; None writes nothing.
        params: how.
        service: train for this one only.
        default: train one model for all services together, which the job uses for services without one of their own.
        is_training: which lines may be learned from; as `DataSet.is_training`.
        report: called after every epoch.
        source: what the data are, for the manifest.

    Raises: DataSetError if there is too little to learn from.
    """
    params = params or TrainParams()
    batching = replace(params.batching, shards=1, masking=params.templates.masking)
    collector = LineCollector(batching, params.templates, params.max_lines, is_training, service)
    hashed = _Hashed(batches)
    for raw in hashed:
        collector.add(raw)
    lines = collector.lines()
    origin = {"source": source, "data_sha256": hashed.hexdigest()}
    parts, skipped = _parts(lines, collector.services, params.min_lines, default=default)
    if not parts:
        raise DataSetError(_too_little(collector, lines, service, params.min_lines, is_training is not None))
    artefacts = {
        name: _train_one(
            name, services, lines.of(np.array(numbers, np.int32)), collector.templates, params, origin, report
        )
        for name, services, numbers in parts
    }
    folders = {} if out is None else {name: save(artefact, out) for name, artefact in artefacts.items()}
    return Trained(artefacts, folders, skipped, len(lines), collector.rejected, collector.left_out)


def train_lines(
    lines: Iterable[bytes], out: Path, params: TrainParams | None = None, *, default: bool = False, **options: Any
) -> Trained:
    """Train from lines; see `train`."""
    return train(to_batches(lines), out, params, default=default, **options)


def train_path(path: Path, out: Path | None, params: TrainParams | None = None, **options: Any) -> Trained:
    """Train from a data set folder (its training part only) or a log file; see `train`.

    Raises: DataSetError if it is neither, or the folder does not say what may be trained on.
    """
    if not (path / "dataset.json").exists():
        return train(to_batches(read_lines(path)), out, params, source=path.name, **options)
    dataset = DataSet.open(path)
    return train_dataset(dataset, out, params, **options)


def train_dataset(dataset: DataSet, out: Path | None, params: TrainParams | None = None, **options: Any) -> Trained:
    """Train from the training part of a data set; see `train`.

    Raises: DataSetError if it has none.
    """
    if dataset.logs is None or not dataset.has_training_part:
        raise DataSetError(
            f"{dataset.folder / 'dataset.json'} names no train_until, train_sessions or train_windows, so nothing may be trained on; "
            "name a log file of normal lines instead."
        )
    params = params or TrainParams()
    params = replace(params, batching=batching_of(dataset, params.batching))
    batches = to_batches(read_lines(dataset.logs))
    return train(batches, out, params, is_training=dataset.is_training, source=dataset.name, **options)


def batching_of(dataset: DataSet, batching: BatchParams) -> BatchParams:
    """The batching with the data set's own session field first."""
    name = dataset.session_field
    fields = batching.parse.session_fields
    if name is None or name in fields:
        return batching
    return replace(batching, parse=replace(batching.parse, session_fields=(name, *fields)))


# -- one model --------------------------------------------------------------------------------------------------------


def _parts(
    lines: Lines, services: Sequence[str], min_lines: int, *, default: bool
) -> tuple[list[tuple[str, list[str], list[int]]], dict[str, int]]:
    """Each model's name, services and their numbers; and what has too few lines."""
    if default:
        enough = len(lines) >= min_lines
        return ([(DEFAULT, list(services), list(range(len(services))))] if enough else []), {}
    count = np.bincount(lines.service, minlength=len(services))
    parts = [(name, [name], [at]) for at, name in enumerate(services) if count[at] >= min_lines]
    return parts, {name: int(count[at]) for at, name in enumerate(services) if count[at] < min_lines}


def _too_little(collector: LineCollector, lines: Lines, service: str | None, min_lines: int, has_split: bool) -> str:
    if not len(lines):
        if service is not None:
            return f"no line of the service {service!r} is there to train on; check the name (--service)."
        where = "its training part" if has_split else "it"
        return f"there is nothing to train on: {where} holds no log line ({collector.rejected} records were rejected)."
    count = np.bincount(lines.service).max()
    return (
        f"too little to train on: {len(lines)} lines, {count} of the busiest service, and a model needs at least {min_lines} lines "
        "of one service (better: some thousand, and 200 sessions). Give more normal lines, train one model for all services "
        "with --default, or lower --min-lines."
    )


def _train_one(
    name: str,
    services: list[str],
    lines: Lines,
    templates: ShardTemplates,
    params: TrainParams,
    origin: dict[str, Any],
    report: Report,
) -> Artefact:
    data = examples(lines, templates.ids, params.windows, params.held_out_ratio)
    fitted = fit(data, params.fit, lambda epoch: report(name, epoch))
    held = _scored(data, DeepLogScorer(fitted.weights))
    rule = choose_rule(held, params.session_alarm_rate, params.line_alarm_rate, data.end + 1)
    session_rate, line_rate = alarms(held, rule)
    return Artefact(
        service=name,
        vocabulary=data.vocabulary,
        templates=_templates(templates, services),
        rule=rule,
        length=params.windows.length,
        session_gap_ms=params.windows.session_gap_ms,
        wait_ms=data.wait_ms,
        hidden=params.fit.hidden,
        layers=params.fit.layers,
        weights=fitted.weights,
        metrics=_metrics(data, fitted, session_rate, line_rate),
        training={
            **origin,
            "services": services,
            "lines": len(lines),
            "sessions": data.sessions[0] + data.sessions[1],
            "first_ts": int(lines.ts.min()),
            "last_ts": int(lines.ts.max()),
            "seed": params.fit.seed,
            "device": fitted.device,
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _scored(data: Examples, scorer: DeepLogScorer) -> HeldOut:
    rows, inverse = np.unique(data.held_row, return_inverse=True)
    probability, rank = scorer.score(data.rows[rows, :-1], data.rows[rows, -1])
    inverse = inverse.ravel()
    is_end = data.rows[data.held_row, -1] == data.end
    return HeldOut(probability[inverse], rank[inverse], is_end, data.held_unit, data.held_is_session)


def _templates(templates: ShardTemplates, services: Sequence[str]) -> list[dict[str, Any]]:
    """The templates of some services, each id once."""
    found: dict[int, dict[str, Any]] = {}
    for service in services:
        for entry in templates.export(service):
            found.setdefault(int(entry["id"]), entry)
    return list(found.values())


def _metrics(
    data: Examples, fitted: Fit, session_rate: float | None, line_rate: float | None
) -> dict[str, float | int | None]:
    best = fitted.best
    return {
        "templates": len(data.vocabulary) - 2,
        "windows": int(data.fit_count.sum() + data.held_count.sum()),
        "distinct_windows": len(data.rows),
        "epochs": fitted.epochs,
        "loss": round(best.loss, 5),
        "held_out_loss": None if best.held_out_loss is None else round(best.held_out_loss, 5),
        "held_out_sessions": data.sessions[1],
        "held_out_session_alarm_rate": None if session_rate is None else round(session_rate, 5),
        "held_out_line_alarm_rate": None if line_rate is None else round(line_rate, 7),
    }
