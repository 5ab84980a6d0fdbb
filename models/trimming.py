"""Sessions left out of training as suspicious: where sessions go one way, the few that went another.

```
sessions ─ by first line, then by the lines that most have: kinds ─ does a kind go one way? ─→ those with something that few have: candidates
all others ─ learned by cheap detectors ─→ candidates judged ─ odd in two families ─→ suspicious, if they are enough to do harm
```

What was learned is normal to a detector, and evidence is no higher than the share of normal lines with such a score allows; so one fault that half
a percent of the sessions have hides all of its kind. The candidates are judged by what was learned without any of them: however often a fault
recurs, it does not vouch for itself.

Where work is of many kinds, a rare kind is no fault, and nothing in its lines tells it from one: there nothing is left out.

Source: Billor, Hadi and Velleman, BACON: Blocked Adaptive Computationally Efficient Outlier Nominators (2000): outliers are judged by a basic
subset that is free of them. Here one step is made, and the detectors' evidence stands for the distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from models.calibrating import evidence_beside
from models.detectors.contract import Bools, Float32, Int64, Params, UInt64
from models.detectors.count import CountParams
from models.detectors.ngram import NgramParams
from models.detectors.novelty import NoveltyParams
from models.detectors.rows import mix
from models.detectors.workflow import WorkflowParams
from models.errors import DataSetError
from models.training_set import Lesson

Float64 = npt.NDArray[np.float64]

_JUDGES: Final[tuple[Params, ...]] = (NoveltyParams(), NgramParams(), WorkflowParams(), CountParams())
_FEW: Final = 200  # sessions of a kind; fewer do not show what is rare among them
_COMMON: Final = 1 / 3  # of the sessions of a kind that goes one way have each of its lines …
_ODD: Final = 2.5  # evidence that one session in three hundred has; a suspicious one has it in two families …
_HARMLESS: Final = 10**-_ODD  # … and so few sessions leave a detector that much evidence of others like them


def suspicious(lesson: Lesson, most_ratio: float, seed: int = 0) -> tuple[UInt64, int]:
    """The keys of the sessions that should not be learned, ascending; and how many sessions were looked at.

    Args:
        lesson: all that there is to learn.
        most_ratio: of the sessions of a kind, the share that may be suspicious; what a larger share has is usual.
        seed: for detectors that are learned for it.
    """
    corpus = lesson.corpus
    in_session = corpus.column("has_session")
    nobody = np.zeros(0, np.uint64)
    if not most_ratio or not in_session.any():
        return nobody, 0
    first = np.unique(lesson.unit[in_session])  # a session is named by the place of its first line
    code = corpus.column("code").astype(np.int64)
    session = np.searchsorted(first, lesson.unit[in_session])
    kind = _kinds(session, code[in_session], mix(corpus.column("service")[first], code[first]))
    is_looked_at, is_candidate = _candidates(session, code[in_session], kind, most_ratio)
    if not is_candidate.any():
        return nobody, int(is_looked_at.sum())
    families = _families(lesson, first, is_candidate, seed)
    is_odd = is_candidate & ((families >= _ODD).sum(axis=1) >= 2)
    if is_odd.sum() <= _HARMLESS * is_looked_at.sum():
        return nobody, int(is_looked_at.sum())
    return np.unique(corpus.column("key")[first[is_odd]]), int(is_looked_at.sum())


def _kinds(session: Int64, code: Int64, beginning: UInt64) -> Int64:
    """The kind of each session: of those that begin alike, and of beginnings whose sessions have half of their usual lines in common.

    Shapes: a line each `session int64[N]`, `code int64[N]`; a session each `beginning uint64[S]`, and the kind `int64[S]`.

    >>> _kinds(np.array([0, 0, 1, 1, 2, 2]), np.array([5, 6, 6, 5, 7, 6]), np.array([5, 6, 7], np.uint64)).tolist()
    [0, 0, 1]
    """
    begun, of, sizes = np.unique(beginning, return_inverse=True, return_counts=True)
    classes = int(code.max()) + 1
    holder, held = np.divmod(np.unique(session * classes + code), classes)
    cell, having = np.unique(of[holder] * classes + held, return_counts=True)
    one, line = np.divmod(cell[having > sizes[cell // classes] / 2], classes)
    usual = [set(lines.tolist()) for lines in np.split(line, np.searchsorted(one, np.arange(1, len(begun))))]
    kinds: list[set[int]] = []
    found = np.zeros(len(begun), np.int64)
    for at in np.argsort(-sizes, kind="stable").tolist():
        alike = (number for number, lines in enumerate(kinds) if 2 * len(lines & usual[at]) >= len(lines | usual[at]))
        found[at] = next(alike, len(kinds))
        if found[at] == len(kinds):
            kinds.append(usual[at])
    return found[of]


def _candidates(session: Int64, code: Int64, kind: Int64, most_ratio: float) -> tuple[Bools, Bools]:
    """Which sessions are of a kind that goes one way, and which of these have something rare.

    Shapes: a line each `session int64[N]`, `code int64[N]`; a session each `kind int64[S]`, and what is given back, `bool[S]`.
    """
    is_looked_at, is_candidate = np.zeros(len(kind), np.bool_), np.zeros(len(kind), np.bool_)
    kinds, sizes = np.unique(kind, return_counts=True)
    for one in kinds[sizes >= _FEW].tolist():
        own = np.flatnonzero(kind == one)
        lines = np.flatnonzero(kind[session] == one)
        rarest, rarest_line = _rarity(np.searchsorted(own, session[lines]), code[lines], len(own))
        if np.quantile(rarest_line, 1 - most_ratio) > -np.log10(_COMMON):
            continue
        is_looked_at[own] = True
        is_candidate[own] = rarest > max(-np.log10(most_ratio), float(np.quantile(rarest, 1 - most_ratio)))
    return is_looked_at, is_candidate


def _rarity(session: Int64, code: Int64, count: int) -> tuple[Float64, Float64]:
    """−log10 of the share of the sessions that have what is rarest about each one, and of those that have its rarest line.

    About a session is how often each line came (once, twice or thrice, four to seven times …), and which lines did not come though most have them.

    >>> rarest, line = _rarity(np.array([0, 0, 1, 1, 2, 3, 3]), np.array([5, 6, 5, 6, 5, 5, 6]), 4)
    >>> (rarest.round(2).tolist(), line.round(2).tolist())
    ([0.12, 0.12, 0.6, 0.12], [0.12, 0.12, 0.0, 0.12])
    """
    classes = int(code.max()) + 1
    cell, times = np.unique(session * classes + code, return_counts=True)
    holder, held = np.divmod(cell, classes)
    share = np.bincount(held, minlength=classes) / count
    _, fact, having = np.unique(
        np.column_stack((held, np.frexp(times)[1])), axis=0, return_inverse=True, return_counts=True
    )
    rarest, line = np.zeros(count), np.zeros(count)
    np.maximum.at(rarest, holder, np.log10(count / having[fact.ravel()]))
    np.maximum.at(line, holder, np.log10(1 / share[held]))
    for usual in np.flatnonzero((share > 0.5) & (share < 1)).tolist():  # fewer than twice the lines of a session
        lacks = np.ones(count, np.bool_)
        lacks[holder[held == usual]] = False
        rarest[lacks] = np.maximum(rarest[lacks], -np.log10(1 - share[usual]))
    return rarest, line


def _families(lesson: Lesson, first: Int64, is_candidate: Bools, seed: int) -> Float32:
    """The highest evidence in each session by family of detectors that learned from all but the candidates; `float32[S, F]`."""
    corpus = lesson.corpus
    is_line = corpus.column("has_session")
    at = np.searchsorted(first, lesson.unit[is_line])
    end_at = np.searchsorted(first, lesson.end_unit)
    families = list(dict.fromkeys(kind.family for kind in _JUDGES))
    found = np.zeros((len(first), len(families)), np.float32)
    for kind in _JUDGES:
        try:
            line, end = evidence_beside(kind, lesson, is_line, ~is_candidate[at], ~is_candidate[end_at], seed)
        except DataSetError:
            continue
        place = families.index(kind.family)
        np.maximum.at(found[:, place], at, line)
        np.maximum.at(found[:, place], end_at, end)
    return found


def told(found: Mapping[str, int]) -> str | None:
    """What was left out of a training, for a person, from the manifest's `suspicious`; None if nothing was.

    >>> told({"sessions": 0, "of": 2769}) is None
    True
    """
    if not found.get("sessions"):
        return None
    return (
        f"{found['sessions']:,} of {found['of']:,} sessions were left out of training as suspicious: in two ways or more (lines, order, counts) "
        "they are unlike all others of their kind"
    )
