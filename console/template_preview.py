"""What a change of templates by hand would do to recent lines, before it is sent. Pure.

```
recent lines ─→ masks ─┬─ templates of the catalogue, the changes in force ─────────────→ template of each line ─┐
                       └─ the same, and the one that is thought of ─────────────────────→ template of each line ─┴─→ what differs
```

The job's own templates (models/templates.py) are made twice and thrown away, so the answer is theirs. The catalogue has the present text of a template and not the line
that made it; where that line is among the recent ones it is known by the id, which is its hash. A word that parts templates again needs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.control import EditTemplate
from models.masking import mask
from models.said import Edit, Said
from models.template_edits import Edits
from models.templates import ShardTemplates, TemplateParams, template_hex

_EXAMPLES: Final = 3
_ID: Final = re.compile("[0-9a-f]{8}")
_FIELDS: Final = ("action", "template_id", "into", "word", "name", "pattern")


@dataclass(frozen=True, slots=True)
class Placed:
    """A template that lines have; `is_new` where the service does not have it yet."""

    template_id: str
    text: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Move:
    """Lines that would get another template, and some of them."""

    before: Placed
    after: Placed
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """What would become of recent lines.

    Attributes:
        refusal: why the job would refuse; empty where it would not.
        lines: how many were looked at.
        moves: those that would get another template, the most first.
        reworded: templates that would keep their lines, and read otherwise.
    """

    refusal: str
    lines: int
    moves: tuple[Move, ...] = ()
    reworded: tuple[tuple[Placed, Placed], ...] = ()

    @property
    def moved(self) -> int:
        """Lines that would get another template."""
        return sum(move.count for move in self.moves)


class _Catalogue:
    """The templates that the service has, to be asked by what decides on a change (models/said.py)."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = frozenset(ids)

    def find(self, message: str) -> int | None:
        """None: a change names ids."""

    def has(self, template: int) -> bool:
        """Whether there is a template of this id."""
        return template_hex(template) in self._ids


def in_force(edits: Iterable[Mapping[str, Any]]) -> list[Edit]:
    """The changes that the job's status tells of; what is none is left out.

    >>> in_force([{"command_id": "a", "by": "ada", "action": "keep", "word": "open"}, {}])[0].word
    'open'
    """
    found = []
    for row in edits:
        fields = {name: row.get(name) if isinstance(row.get(name), str) else None for name in _FIELDS}
        if isinstance(row.get("command_id"), str) and fields["action"] in ("join", "pin", "keep", "mask"):
            found.append(Edit(row["command_id"], str(row.get("by") or "?"), **fields))  # type: ignore[arg-type]
    return found


def preview(
    command: EditTemplate,
    messages: Sequence[str],
    catalogue: Mapping[str, str],
    edits: Iterable[Mapping[str, Any]],
    params: TemplateParams | None = None,
) -> Preview:
    """What a change would do to lines of its service.

    Args:
        command: the change.
        messages: recent lines, redacted as in the job.
        catalogue: text of each template of the service, by id.
        edits: the changes in force, as the job's status has them.
        params: how the job mines templates.
    """
    params = params or TemplateParams()
    said = Said(edits=in_force(edits))
    before = said.template_edits
    answer = said.take_edit(command, _Catalogue(catalogue))
    if not answer.is_obeyed:
        return Preview(answer.why, len(messages))
    if not messages:
        return Preview("", 0)
    masked = mask(list(messages), params.masking).to_list()
    texts = list(dict.fromkeys(masked))
    params = replace(params, max_templates=params.max_templates + len(catalogue) + len(texts))
    entries = _entries(catalogue, _made_by([*texts, *before.masked(texts)], params))
    at = {text: row for row, text in enumerate(texts)}
    lines = np.array([at[text] for text in masked], np.int32)
    was, now = (
        _placed(command.service, texts, lines, entries, before, edits_, catalogue, params)
        for edits_ in (before, said.template_edits)
    )
    return _difference(messages, was, now)


def _made_by(texts: Sequence[str], params: TemplateParams) -> dict[str, str]:
    """The tokens of each text, by the id of the template that it would make: each is the first of a service of its own."""
    mined = params.build()
    count = len(texts)
    _step(mined, [f"{at}\0{text}" for at, text in enumerate(texts)], np.arange(count, dtype=np.int32))
    return {template_hex(int(mined.ids[seq])): " ".join(mined.created(seq)) for seq in range(len(mined))}


def _entries(catalogue: Mapping[str, str], made_by: Mapping[str, str]) -> list[dict[str, Any]]:
    """The catalogue's templates, as a shard is given them."""
    found = []
    for name, text in catalogue.items():
        tokens = text.replace("=", "= ").split()  # as before they were shown to people
        created = made_by.get(name, "").split()
        is_known = len(created) == len(tokens)
        if tokens and _ID.fullmatch(name):
            made = " ".join(created if is_known else tokens)
            found.append({"id": int(name, 16), "created": made, "tokens": " ".join(tokens)})
    return found


def _step(mined: ShardTemplates, texts: Sequence[str], lines: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The template of each line, by its number."""
    return mined.step(texts, lines, np.zeros(len(lines), np.int64), np.zeros(len(lines), np.uint8)).seq


def _placed(
    service: str,
    texts: Sequence[str],
    lines: npt.NDArray[np.int32],
    entries: Sequence[Mapping[str, Any]],
    before: Edits,
    edits: Edits,
    catalogue: Mapping[str, str],
    params: TemplateParams,
) -> list[Placed]:
    """The template that each line would have if it came again under these changes."""
    mined = params.build()
    mined.seed(service, entries)
    mined.edit(service, before)
    named = [f"{service}\0{text}" for text in texts]
    _step(mined, named, lines)
    mined.edit(service, edits)
    seq = _step(mined, named, lines)
    shown = {}
    for one in np.unique(seq).tolist():
        name = template_hex(int(mined.ids[one]))
        shown[one] = Placed(name, mined.template(one), name not in catalogue)
    return [shown[one] for one in seq.tolist()]


def _difference(messages: Sequence[str], was: Sequence[Placed], now: Sequence[Placed]) -> Preview:
    counts: Counter[tuple[Placed, Placed]] = Counter()
    examples: dict[tuple[Placed, Placed], list[str]] = {}
    for message, before, after in zip(messages, was, now, strict=True):
        counts[before, after] += 1
        seen = examples.setdefault((before, after), [])
        if len(seen) < _EXAMPLES and message not in seen:
            seen.append(message)
    moves, reworded = [], []
    for (before, after), count in counts.most_common():
        if before.template_id != after.template_id:
            moves.append(Move(before, after, count, tuple(examples[before, after])))
        elif before.text != after.text:
            reworded.append((before, after))
    return Preview("", len(messages), tuple(moves), tuple(reworded))
