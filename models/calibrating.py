"""Calibration: what the detectors of one model say of normal lines that they had not learned.

Cheap detectors are learned again without each quarter of the units, and judge that quarter (cross-conformal prediction: Vovk, Cross-conformal predictors,
2015); so what is new in a quarter shows how often normal lines bring something new. Networks are fitted once: their normal scores are those of the
held-out part, and the lines that they were fitted to are ranked among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from models.conformal import NormalScores
from models.deeplog import FIRST_TEMPLATE, UNKNOWN
from models.detectors.contract import Corpus, Ends, Learned, Params, Seen
from models.detectors.rows import mix
from models.errors import DataSetError
from models.fusion import SUSPECT, Calibration, Fusion, FusionParams
from models.incidents import Suspects
from models.training_set import Lesson

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_FOLDS: Final = 4
_FEW: Final = 500  # with fewer held-out lines a network's normal scores are those of all lines
_KEPT: Final = 200_000  # normal lines with some evidence that are kept
_DAY_MS: Final = 86_400_000
_STRETCH_MS: Final = 10_000


def calibrate(lesson: Lesson, params: Mapping[str, Params], learned: Mapping[str, Learned], seed: int) -> Calibration:
    """The normal scores of each detector, and the normal lines that carry evidence.

    Args:
        lesson: what the model learned from.
        params: the detectors, by name.
        learned: what each learned of the whole lesson.
        seed: for detectors that are learned again.
    """
    corpus = lesson.corpus
    names = tuple(params)
    fold = _folds(lesson.unit)
    end_fold = _fold_of(lesson.end_unit, lesson.unit, fold)
    held_end = _fold_of(lesson.end_unit, lesson.unit, lesson.is_held.astype(np.int64)).astype(np.bool_)
    calm = _stretches(lesson)
    line: dict[str, NormalScores] = {}
    end: dict[str, NormalScores] = {}
    columns: list[tuple[Float32, Float32]] = []
    for name, kind in params.items():
        teach = _as_it_is(learned[name]) if kind.is_fitted_once else _without(kind, corpus, fold, end_fold, seed)
        scores = _by_fold(kind, corpus, fold, end_fold, teach)
        if kind.is_fitted_once and lesson.is_held.sum() >= _FEW:
            parts, end_parts = [lesson.is_held, ~lesson.is_held], [held_end, ~held_end]
        else:
            parts, end_parts = [np.ones(len(fold), np.bool_)], [np.ones(len(end_fold), np.bool_)]
        line[name], of_lines = _ranked(scores[0], calm, parts)
        end[name], of_ends = _ranked(scores[1], lesson.end_unit, end_parts)
        columns.append((of_lines, of_ends))
    families = tuple(kind.family for kind in params.values())
    evidence = np.concatenate(
        [np.column_stack([of_lines for of_lines, _ in columns]), np.column_stack([of_ends for _, of_ends in columns])]
    )
    suspects = _suspects(lesson)
    empty = Calibration(names, families, line, end, evidence[:0], suspects.take(np.zeros(0, np.int64)), 1.0)
    strongest = Fusion(empty, FusionParams()).loudest(evidence)  # whoever votes
    kept = np.flatnonzero(strongest >= SUSPECT)
    if len(kept) > _KEPT:
        kept = np.sort(kept[np.argsort(-strongest[kept], kind="stable")[:_KEPT]])
    kept = kept[np.lexsort((np.arange(len(kept)), suspects.now[kept]))]
    services = len(np.unique(corpus.column("service")))
    now = corpus.column("now")
    days = max(float(now.max() - now.min()), 1.0) / _DAY_MS * services
    return Calibration(names, families, line, end, evidence[kept], suspects.take(kept), days)


def evidence_beside(
    kind: Params, lesson: Lesson, is_asked: Bools, is_core: Bools, is_end_core: Bools, seed: int
) -> tuple[Float32, Float32]:
    """The evidence of lines and of all ends against a core of the lesson: those of the core as if it had not learned them.

    Args:
        kind: the detector.
        lesson: what there is.
        is_asked: of which lines; the others do not exist here; `bool[N]`.
        is_core: which of the lines asked of are of the core.
        is_end_core: which of the ends.
        seed: for the detector.

    Raises: DataSetError if the core is too little to learn from.
    """
    unit = lesson.unit[is_asked]
    every = np.ones(len(is_end_core), np.bool_)
    corpus = Corpus(_part(lesson.corpus, is_asked, every), lesson.corpus.names, lesson.corpus.length)
    core = Corpus(_part(corpus, is_core, is_end_core), corpus.names, corpus.length)
    learned = kind.learn(core, seed=seed)
    taught = np.unique(corpus.column("code")[is_core])
    fold = _folds(unit[is_core])
    end_fold = _fold_of(lesson.end_unit[is_end_core], unit[is_core], fold)
    line, end = np.zeros(len(is_core), np.float32), np.zeros(len(is_end_core), np.float32)
    line[is_core], end[is_end_core] = _by_fold(kind, core, fold, end_fold, _without(kind, core, fold, end_fold, seed))
    line[~is_core], end[~is_end_core] = _judged(kind, learned, corpus, ~is_core, ~is_end_core, taught)
    lines = NormalScores.of(_highest(line[is_core], unit[is_core]))
    ends = NormalScores.of(_highest(end[is_end_core], lesson.end_unit[is_end_core]))
    return lines.evidence(line), ends.evidence(end)


def _folds(unit: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The fold of each line: quarters of the units by their first line, so that a fold is a stretch of time."""
    order = np.unique(unit)
    return np.searchsorted(order, unit) * _FOLDS // max(len(order), 1)


def _fold_of(
    unit: npt.NDArray[np.int64], line_unit: npt.NDArray[np.int64], value: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The value of the line that a unit is named by."""
    units, first = np.unique(line_unit, return_index=True)
    return value[first[np.searchsorted(units, unit)]] if len(unit) else np.zeros(0, np.int64)


def _as_it_is(learned: Learned) -> Callable[[int], Learned | None]:
    """What a detector that is fitted once learned, whichever the fold."""
    return lambda number: learned


def _without(
    kind: Params, corpus: Corpus, fold: npt.NDArray[np.int64], end_fold: npt.NDArray[np.int64], seed: int
) -> Callable[[int], Learned | None]:
    """What a detector learns without a fold; None if that is too little."""

    def learn(number: int) -> Learned | None:
        others = Corpus(_part(corpus, fold != number, end_fold != number), corpus.names, corpus.length)
        try:
            return kind.learn(others, seed=seed)
        except DataSetError:
            return None

    return learn


def _by_fold(
    kind: Params,
    corpus: Corpus,
    fold: npt.NDArray[np.int64],
    end_fold: npt.NDArray[np.int64],
    learned: Callable[[int], Learned | None],
) -> tuple[Float32, Float32]:
    """The scores of each fold, in which templates that no other fold has are unknown."""
    line = np.full(len(fold), np.nan, np.float32)
    end = np.full(len(end_fold), np.nan, np.float32)
    code = corpus.column("code")
    for number in range(_FOLDS):
        inside, inside_end = fold == number, end_fold == number
        if not inside.any() or inside.all():
            continue
        lesson = learned(number)
        if lesson is None:
            continue
        taught = np.unique(code[~inside])
        line[inside], end[inside_end] = _judged(kind, lesson, corpus, inside, inside_end, taught)
    return line, end


def _judged(
    kind: Params, learned: Learned, corpus: Corpus, is_asked: Bools, is_end_asked: Bools, taught: npt.NDArray[np.int32]
) -> tuple[Float32, Float32]:
    """The scores of some lines and ends by a detector that was taught others; their templates of other classes are unknown."""
    known = np.zeros(len(corpus.names) + 1, np.bool_)
    known[taught] = True
    known[:FIRST_TEMPLATE] = True
    detector = kind.build(learned, corpus.names)
    scores = [detector.step(_recoded(batch, known)) for batch in _part(corpus, is_asked, is_end_asked)]
    return np.concatenate([score.line for score in scores]), np.concatenate([score.end for score in scores])


def _part(corpus: Corpus, is_kept: Bools, is_end_kept: Bools) -> list[Seen]:
    found, low, end_low = [], 0, 0
    for batch in corpus.batches:
        rows = np.flatnonzero(is_kept[low : low + len(batch)])
        ends = np.flatnonzero(is_end_kept[end_low : end_low + len(batch.ends)])
        low, end_low = low + len(batch), end_low + len(batch.ends)
        if len(rows) or len(ends):
            found.append(batch.take(rows, ends))
    return found


def _recoded(seen: Seen, known: Bools) -> Seen:
    """The lines as they look to a model that lacks some templates."""
    classes = np.where(known, np.arange(len(known)), UNKNOWN).astype(np.int32)
    ends = Ends(classes[seen.ends.windows], seen.ends.key, seen.ends.ts)
    return replace(seen, code=classes[seen.code], windows=classes[seen.windows], ends=ends)


def _stretches(lesson: Lesson) -> npt.NDArray[np.int64]:
    """What a normal score is the highest of: a line's session; without one, ten seconds of its service."""
    corpus = lesson.corpus
    stretch = mix(corpus.column("service"), corpus.column("now") // _STRETCH_MS).astype(np.int64)
    return np.where(corpus.column("has_session"), lesson.unit, stretch)


def _ranked(scores: Float32, unit: npt.NDArray[np.int64], parts: list[Bools]) -> tuple[NormalScores, Float32]:
    """The highest normal scores of the first part's units, and the evidence of each score inside its own part."""
    evidence = np.zeros(len(scores), np.float32)
    tables = [NormalScores.of(_highest(scores[part], unit[part])) for part in parts]
    for table, part in zip(tables, parts, strict=True):
        evidence[part] = table.evidence(scores[part])
    return tables[0], evidence


def _highest(scores: Float32, unit: npt.NDArray[np.int64]) -> Float32:
    """The highest score of each unit that has one."""
    spoken = np.flatnonzero(~np.isnan(scores))
    order = spoken[np.argsort(unit[spoken], kind="stable")]
    starts = np.flatnonzero(np.append(True, np.diff(unit[order]) != 0)) if len(order) else order
    return np.maximum.reduceat(scores[order], starts) if len(order) else scores[order]


def _suspects(lesson: Lesson) -> Suspects:
    """Every line and then every end of the lesson as a suspect."""
    corpus = lesson.corpus
    ends = [batch.ends for batch in corpus.batches]
    last = np.concatenate([e.windows[:, -1] for e in ends])
    key = np.concatenate([e.key for e in ends])
    service_of = dict(zip(corpus.column("key").tolist(), corpus.column("service").tolist(), strict=True))
    count = len(corpus)
    return Suspects(
        key=np.concatenate((corpus.column("key"), key)),
        service=np.concatenate(
            (corpus.column("service"), np.array([service_of[one] for one in key.tolist()], np.uint64))
        ),
        piece=np.concatenate((corpus.column("seq"), -1 - last)).astype(np.int32),
        now=np.concatenate((corpus.column("now"), *(e.ts for e in ends))),
        has_session=np.concatenate((corpus.column("has_session"), np.ones(len(key), np.bool_))),
        weight=np.zeros(count + len(key), np.float32),
    )
