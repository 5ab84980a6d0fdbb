"""Training: log lines in, one model artefact a service out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.artefact import DEFAULT, Artefact, save
from models.batch import BatchParams
from models.calibrating import calibrate
from models.datasets import DataSet, read_lines, to_batches
from models.detectors.contract import Learned, Params
from models.detectors.deeplog import DeepLogParams
from models.detectors.registry import REGISTRY
from models.detectors.texts import TextParams
from models.embedding import AUTO
from models.errors import DataSetError, SettingsError
from models.fitting import FitParams
from models.fusion import Fusion, FusionParams
from models.parsing import Raw
from models.templates import TemplateParams
from models.traces import TraceParams
from models.training_set import Gathered, IsTraining, LineCollector, MinedTemplates, lesson, without
from models.trimming import suspicious
from models.windows import WindowParams

Report = Callable[[str, str, float, float | None], None]  # (service, detector and what it does, share done, loss)

#: Detectors that learn unless others are asked for: those that judge every line, but for the one of values, whose normal range drifts in
#: many systems (docs/measurements.md).
CHEAP: Final = tuple(name for name, kind in REGISTRY.items() if not kind.is_heavy and name != "deeplog-value")


@dataclass(frozen=True)
class TrainParams:
    """How a model is made.

    Attributes:
        detectors: which learn, by name.
        fit: DeepLog's network, epochs, device.
        embedding: how texts become vectors, for detectors that compare them (models/embedding.py).
        seed: of all that is left to chance.
        windows: length of a window, and the gap after which a session's history is forgotten; the job must use the same.
        templates, batching, traces: how lines are parsed, masked, mined and joined; the job must use the same.
        held_out_ratio: share of the sessions, or lines, that networks are not fitted to.
        suspicious_ratio: share of the sessions that may be left out as suspicious (models/trimming.py); 0 leaves none out.
        min_lines: fewer lines of a service train no model.
        max_lines: later lines are left out.
    """

    detectors: tuple[str, ...] = CHEAP
    fit: FitParams = field(default_factory=FitParams)
    embedding: str = AUTO
    seed: int = 0
    windows: WindowParams = field(default_factory=WindowParams)
    templates: TemplateParams = field(default_factory=TemplateParams)
    batching: BatchParams = field(default_factory=BatchParams)
    traces: TraceParams | None = None
    held_out_ratio: float = 0.2
    suspicious_ratio: float = 0.0
    min_lines: int = 200
    max_lines: int = 5_000_000

    def __post_init__(self) -> None:
        if not 0 < self.held_out_ratio < 0.9:
            raise SettingsError(f"held_out_ratio is {self.held_out_ratio}; give a share above 0, below 0.9.")
        if not 0 <= self.suspicious_ratio <= 0.2:
            raise SettingsError(
                f"suspicious_ratio is {self.suspicious_ratio}; give a share from 0 (leave no session out) to 0.2."
            )
        unknown = sorted(set(self.detectors) - set(REGISTRY))
        if unknown or not self.detectors:
            raise SettingsError(
                f"no such detector: {', '.join(unknown) or '(none given)'}; choose from {', '.join(REGISTRY)}."
            )
        if all(REGISTRY[name].is_heavy for name in self.detectors):
            raise SettingsError(
                f"{', '.join(self.detectors)} only give a second opinion on what others have told; add one that judges every "
                f"line: {', '.join(CHEAP)}."
            )

    def kinds(self) -> dict[str, Params]:
        """The parameters of each detector, in the order of the registry."""
        made: dict[str, Params] = {name: kind() for name, kind in REGISTRY.items() if name in self.detectors}
        if DeepLogParams.name in made:
            made[DeepLogParams.name] = DeepLogParams(fit=self.fit)
        return {
            name: replace(kind, embedding=self.embedding) if isinstance(kind, TextParams) else kind
            for name, kind in made.items()
        }


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
    report: Report = lambda service, what, done, loss: None,
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
        report: called on the way.
        source: what the data are, for the manifest.

    Raises: DataSetError if there is too little to learn from.
    """
    params = params or TrainParams()
    batching = replace(params.batching, shards=1, masking=params.templates.masking)
    collector = LineCollector(batching, params.templates, params.max_lines, is_training, service, params.traces)
    hashed = _Hashed(batches)
    for raw in hashed:
        collector.add(raw)
    origin = {"source": source, "data_sha256": hashed.hexdigest()}
    parts, skipped = _parts(collector, params.min_lines, default=default)
    if not parts:
        raise DataSetError(_too_little(collector, service, params.min_lines, is_training is not None))
    artefacts = {name: learn(name, numbers, collector, params, origin, report) for name, numbers in parts.items()}
    folders = {} if out is None else {name: save(artefact, out) for name, artefact in artefacts.items()}
    return Trained(artefacts, folders, skipped, collector.count, collector.rejected, collector.left_out)


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


def _parts(collector: LineCollector, min_lines: int, *, default: bool) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Each model's services, by its name; and what has too few lines."""
    count = collector.lines_by_service()
    if default:
        return ({DEFAULT: list(range(len(count)))} if collector.count >= min_lines else {}), {}
    names = collector.services
    parts = {name: [at] for at, name in enumerate(names) if count[at] >= min_lines}
    return parts, {name: int(count[at]) for at, name in enumerate(names) if count[at] < min_lines}


def _too_little(collector: LineCollector, service: str | None, min_lines: int, has_split: bool) -> str:
    if not collector.count:
        if service is not None:
            return f"no line of the service {service!r} is there to train on; check the name (--service)."
        where = "its training part" if has_split else "it"
        return f"there is nothing to train on: {where} holds no log line ({collector.rejected} records were rejected)."
    return (
        f"too little to train on: {collector.count} lines, {collector.lines_by_service().max()} of the busiest service, and a model "
        f"needs at least {min_lines} lines of one service (better: some thousand, and 200 sessions). Give more normal lines, train "
        "one model for all services with --default, or lower --min-lines."
    )


def learn(
    name: str,
    services: Sequence[int],
    gathered: Gathered,
    params: TrainParams,
    origin: Mapping[str, Any],
    report: Report = lambda service, what, done, loss: None,
) -> Artefact:
    """One model of the gathered lines of some services.

    Args:
        name: of the model: a service, or `default`.
        services: indices of the services it is for.
        gathered: the lines.
        params: how; what says how lines are parsed and mined is only noted.
        origin: what the data are, for the manifest.
        report: called on the way.

    Raises: DataSetError if no detector that judges every line has enough to learn from.
    """
    data = lesson(gathered, services, params.windows, params.held_out_ratio)
    report(name, "looking for suspicious sessions", 0.0, None)
    doubted, looked_at = suspicious(data, params.suspicious_ratio, params.seed)
    if len(doubted):
        data = lesson(without(gathered, doubted), services, params.windows, params.held_out_ratio)
    kinds = params.kinds()
    learned: dict[str, Learned] = {}
    refused: dict[str, str] = {}
    for at, (detector, kind) in enumerate(kinds.items()):

        def tell(what: str, done: float, loss: float | None, at: int = at, detector: str = detector) -> None:
            report(name, f"{detector}: {what}", (at + done) / (len(kinds) + 1), loss)

        tell("learning", 0.0, None)
        try:
            learned[detector] = kind.learn(data.corpus, seed=params.seed, report=tell)
        except DataSetError as error:
            refused[detector] = str(error)
            tell(f"left out: {error}", 1.0, None)
    if all(REGISTRY[detector].is_heavy for detector in learned):  # a second opinion needs a first one
        raise DataSetError(f"{name}: no detector has enough to learn from: {' '.join(refused.values())}")
    kinds = {detector: kind for detector, kind in kinds.items() if detector in learned}
    report(name, "judging normal lines", len(kinds) / (len(kinds) + 1), None)
    calibration = calibrate(data, kinds, learned, params.seed)
    fusion = Fusion(calibration, FusionParams(), is_heavy=False)
    report(name, "done", 1.0, None)
    times = data.corpus.column("ts")
    has_session = data.corpus.column("has_session")
    names = [gathered.services[at] for at in services]
    return Artefact(
        service=name,
        vocabulary=data.vocabulary,
        templates=_templates(gathered.templates, names),
        length=params.windows.length,
        session_gap_ms=params.windows.session_gap_ms,
        wait_ms=data.wait_ms,
        learned=learned,
        calibration=calibration,
        mining=params.templates.mining(),
        metrics={
            "templates": len(data.vocabulary) - 2,
            "normal_incidents": len(fusion.peaks),
            "threshold": fusion.threshold,
        },
        training={
            "suspicious": {"sessions": len(doubted), "of": looked_at},
            **origin,  # of a caller that has looked for them itself
            "services": names,
            "lines": len(data.corpus),
            "sessions": len(np.unique(data.unit[has_session])),
            "first_ts": int(times.min()),
            "last_ts": int(times.max()),
            "seed": params.seed,
            "left_out": refused,
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _templates(templates: MinedTemplates, services: Sequence[str]) -> list[dict[str, Any]]:
    """The templates of some services, each id once."""
    found: dict[int, dict[str, Any]] = {}
    for service in services:
        for entry in templates.export(service):
            found.setdefault(int(entry["id"]), entry)
    return list(found.values())
