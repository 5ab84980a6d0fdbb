"""One detector alone on a labelled data set: its evidence on every line that the job would show it, and on each labelled unit.

```
training part ─ lesson ─→ kind.learn ─→ what was learned, its normal scores ─┐
all lines ─ the job's core, overheard ─→ Seen batches ─ detector.step ───────┴─→ evidence ─ highest of a unit ─→ Heard
```

Every line is judged, so a detector that gives only a second opinion in the job is measured like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.artefact import Artefact
from models.batch import BatchParams
from models.calibrating import calibrate
from models.datasets import DataSet, to_batches
from models.detectors.contract import Detector, Evidence, Learned, Params, Scores, Seen, quiet
from models.detectors.novelty import NoveltyParams
from models.errors import DataSetError
from models.evaluate import log_lines, score_through_core
from models.figures import Bools, Floats, Int64, auc, pr_auc, pr_points
from models.fusion import FusionParams
from models.packing import group_key
from models.shard import ShardParams
from models.train import TrainParams, batching_of, train
from models.training_set import Lesson, LineCollector, lesson
from models.unit_figures import WindowMap

Say = Callable[[str], None]  # takes one line of progress

_TIE: Final = 1e-7  # of a score, which orders units of equal evidence


@dataclass(frozen=True, slots=True)
class Stage:
    """A data set made ready for detectors to be tried on it.

    Attributes:
        dataset: with its labels.
        lessons: what each model learns from, by the model's name.
        seen: all lines of the log in source order, as the detectors of each model see them.
    """

    dataset: DataSet
    lessons: Mapping[str, Lesson]
    seen: Mapping[str, Sequence[Seen]]

    @classmethod
    def of(
        cls, dataset: DataSet, params: TrainParams, shards: ShardParams, *, is_level_hidden: bool = False, say: Say
    ) -> Stage:
        """Read, mine and cut a data set as training and the job do.

        Raises: DataSetError if it has no labels, no training part, or units that are lines.
        """
        if not dataset.units or not dataset.has_training_part or dataset.unit == "line":
            raise DataSetError(
                f"{dataset.folder} cannot be studied: that takes a training part and labelled sessions or windows."
            )
        params = replace(params, detectors=(NoveltyParams.name,), batching=batching_of(dataset, params.batching))

        def lines() -> Iterator[bytes]:
            return log_lines(dataset, is_level_hidden=is_level_hidden)

        say("reading the training part")
        models = train(to_batches(lines()), None, params, is_training=dataset.is_training).artefacts
        batching = replace(params.batching, shards=1, masking=params.templates.masking)
        collector = LineCollector(
            batching, params.templates, params.max_lines, dataset.is_training, traces=params.traces
        )
        for raw in to_batches(lines()):
            collector.add(raw)
        say("reading all lines as the job does")
        return cls(
            dataset,
            {
                name: lesson(collector, [collector.services.index(name)], params.windows, params.held_out_ratio)
                for name in models
            },
            overhear(models, lines(), params.batching, shards),
        )


def overhear(
    models: Mapping[str, Artefact], lines: Iterable[bytes], batching: BatchParams, shards: ShardParams
) -> dict[str, list[Seen]]:
    """What the detectors of each model get to see when the job's core scores some lines."""
    heard: dict[str, list[Seen]] = {name: [] for name in models}
    watched = {name: _Watched.of(artefact, heard[name].append) for name, artefact in models.items()}
    name = next(iter(models.values())).calibration.names[0]
    shards = replace(shards, fusion=FusionParams(detectors=(name,)))
    for _ in score_through_core(lines, watched, batching, shards):
        pass
    return heard


@dataclass(frozen=True, eq=False, kw_only=True)
class _Watched(Artefact):
    """An artefact whose detectors let somebody see what they are shown."""

    hear: Callable[[Seen], None]

    @classmethod
    def of(cls, artefact: Artefact, hear: Callable[[Seen], None]) -> _Watched:
        own: dict[str, Any] = {field.name: getattr(artefact, field.name) for field in fields(Artefact)}
        return cls(**own, hear=hear)

    def build(self, detector: str) -> Detector:
        return _Witness(super().build(detector), self.hear)


class _Witness(Detector):
    """Passes on what a detector without state is shown."""

    def __init__(self, detector: Detector, hear: Callable[[Seen], None]) -> None:
        self._detector = detector
        self._hear = hear

    def step(self, seen: Seen) -> Scores:
        self._hear(seen)
        return self._detector.step(seen)

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        return self._detector.explain(seen, at, is_end=is_end)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one detector alone has to say of each labelled unit.

    Shapes: `is_anomalous bool[U]`; `rank float64[U]`, the highest evidence in the unit, by which units are ordered: of equal evidence the higher
        score is above.
    """

    is_anomalous: Bools
    rank: Floats

    def figures(self) -> dict[str, float | None]:
        """AUC, PR-AUC, and the F1 at the best threshold that there is, which only one who sees the labels can choose."""
        recall, precision = pr_points(self.is_anomalous, self.rank)
        best = (2 * recall * precision / np.maximum(recall + precision, 1e-12)).max() if len(recall) else None
        return {
            "auc": _rounded(auc(self.is_anomalous, self.rank)),
            "pr_auc": _rounded(pr_auc(self.is_anomalous, self.rank)),
            "best_f1": _rounded(best),
        }


def hear(stage: Stage, kind: Params, learned: Mapping[str, Learned], seed: int = 0) -> Heard:
    """One detector on all lines of a data set.

    Args:
        stage: the data set.
        kind: the detector.
        learned: what it learned, by model; a model without is silent.
        seed: for detectors that are learned again for calibration.
    """
    rank = np.zeros(len(stage.dataset.units))
    for name, taught in learned.items():
        normal = calibrate(stage.lessons[name], {kind.name: kind}, {kind.name: taught}, seed)
        detector = kind.build(taught, stage.lessons[name].corpus.names)
        for seen in stage.seen[name]:
            scores = detector.step(seen)
            of_line, of_end = units_of(stage.dataset, seen, name)
            for unit, table, score in (
                (of_line, normal.line[kind.name], scores.line),
                (of_end, normal.end[kind.name], scores.end),
            ):
                inside = np.flatnonzero(unit >= 0)
                found = table.evidence(score[inside]) + _TIE * np.nan_to_num(score[inside])
                np.maximum.at(rank, unit[inside], found)
    return Heard(np.array([unit.is_anomalous for unit in stage.dataset.units], np.bool_), rank)


def learn(
    stage: Stage, kind: Params, seed: int = 0, say: Say = lambda line: None
) -> tuple[dict[str, Learned], dict[str, str]]:
    """What a detector learns, by model; and why it could not, by the other models."""
    learned: dict[str, Learned] = {}
    refused: dict[str, str] = {}
    for name, own in stage.lessons.items():
        say(f"{name}: {kind.name} learns")
        try:
            learned[name] = kind.learn(own.corpus, seed=seed, report=quiet)
        except DataSetError as error:
            refused[name] = str(error)
    return learned, refused


def units_of(dataset: DataSet, seen: Seen, service: str) -> tuple[Int64, Int64]:
    """The labelled unit of each line and of each end, -1 for none."""
    if dataset.unit == "window":
        windows = WindowMap.of(dataset.units, dataset.grace_ms)
        return windows.at(seen.ts), windows.at(seen.ends.ts)
    keys = np.array([group_key(service, unit.key) for unit in dataset.units], np.uint64)
    order = np.argsort(keys)

    def at(key: npt.NDArray[np.uint64]) -> Int64:
        place = np.minimum(np.searchsorted(keys[order], key), len(keys) - 1)
        found: Int64 = np.where(keys[order][place] == key, order[place], -1).astype(np.int64)
        return found

    return at(seen.key), at(seen.ends.key)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)
