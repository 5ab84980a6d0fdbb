"""Templates of all services of one shard: Drain3 by service, with ids that outlive restarts.

```
distinct texts ─→ memo (text → template) ─ known ──────────────────────────┐
                      │ never seen                                          ├─→ template of each line ─→ statistics
                      └─→ tokens ─→ tree of its service and keep-words ─────┘
```

The answers are exactly those of the trees of `models.drain` fed line by line, whatever the batches: a text is remembered only as long
as its leaf of the tree is undisturbed, and where a leaf changes in the middle of a batch, later occurrences of its texts
are placed again at their own position.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from models.drain import Placement, Tree
from models.errors import DriftwoodError, SettingsError
from models.masking import MaskParams, Signature, signature, tokenise
from models.placing import NEVER, Batch, Memo
from models.statistics import TemplateStatistics, grown
from models.template_edits import NO_EDITS, Edits

ENTRY_VERSION: Final = 1
OVERFLOW: Final = "<overflow>"
OVERFLOW_ID: Final = 0

#: `key= value` is `key=value` again; not where the next token is a key itself, since then the value is empty.
_VALUE_OF_KEY: Final = re.compile(r"(?<=\S)= (?=\S*[^=\s](?: |$))")

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class TemplateParams:
    """How templates are mined, and the bounds on them.

    Attributes:
        depth: Drain's depth: length, depth - 3 leading tokens, leaf.
        sim_th: least share of equal tokens for a match.
        max_children: children of an inner node before the rest share a wildcard.
        parametrize_numeric_tokens: leading tokens that look like values share a wildcard.
        max_templates: templates of one service; a text beyond goes to the service's overflow template, id 0.
        max_templates_shard: templates of the whole shard; a text beyond goes to one overflow template of no service.
        max_variants: trees of a service that differ in their event words only; beyond, these words part no more.
        memo_texts: texts remembered; when full, all are forgotten, which changes no answer.
        memo_chars: characters of the remembered texts together.
        masking: masks, shapes, keep-words and length caps.
    """

    depth: int = 4
    sim_th: float = 0.4
    max_children: int = 100
    parametrize_numeric_tokens: bool = True
    max_templates: int = 2_000
    max_templates_shard: int = 100_000
    max_variants: int = 32
    memo_texts: int = 100_000
    memo_chars: int = 32 << 20
    masking: MaskParams = field(default_factory=MaskParams)

    def __post_init__(self) -> None:
        if self.depth < 3:
            raise SettingsError(f"depth is {self.depth}; Drain needs at least 3.")
        if not 0 < self.sim_th <= 1:
            raise SettingsError(f"sim_th is {self.sim_th}; give a share above 0, at most 1.")
        if min(self.max_children, self.max_templates, self.max_templates_shard, self.memo_texts, self.memo_chars) < 1:
            raise SettingsError("max_children, max_templates and the memo's bounds must be at least 1.")

    def mining(self) -> dict[str, Any]:
        """What a model must have in common with the job: how lines are masked and which are alike."""
        return {"depth": self.depth, "sim_th": self.sim_th, "masking": self.masking.to_json()}

    def build(self, entries: Iterable[bytes] = (), stats: bytes | None = None) -> ShardTemplates:
        """The templates of a shard, empty or as their entries and statistics say."""
        return ShardTemplates(self, entries, stats)


@dataclass(frozen=True, slots=True)
class TemplateStep:
    """What one batch did.

    Attributes:
        seq: the template of each line, by its creation number in the shard; int32[N].
        new: templates created by this batch.
        changed: structure entries to write, (key, bytes): new templates and those whose tokens changed.
    """

    seq: Int32s
    new: list[int]
    changed: list[tuple[str, bytes]]


@dataclass(slots=True)
class _Template:
    service: str
    created: tuple[str, ...]
    tree: Tree | None  # None: an overflow template
    cluster: int

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.created if self.tree is None else self.tree.tokens(self.cluster)


@dataclass(slots=True)
class _Service:
    """The trees of one service, one for each signature, and the ids in use."""

    trees: dict[Signature, tuple[Tree, list[int]]] = field(default_factory=dict)  # with the seq of each cluster
    variants: dict[tuple[Any, ...], int] = field(default_factory=dict)  # trees that differ in event words only
    ids: dict[int, int] = field(default_factory=dict)  # id → seq
    overflow: int | None = None


class ShardTemplates:
    """Templates, ids and statistics of every service of one shard.

    State: one entry a template (JSON, written when new or changed) and the statistics table (`touched`, `to_bytes`,
    `apply`); at most `max_templates` a service and `max_templates_shard` in all. The memo is no state.
    """

    def __init__(self, params: TemplateParams, entries: Iterable[bytes] = (), stats: bytes | None = None) -> None:
        self.params = params
        self._services: dict[str, _Service] = {}
        self._templates: list[_Template | None] = []  # by seq; None: forgotten
        self._live = 0
        self._ids = np.zeros(64, np.uint32)
        self.service_of: list[str] = []
        self.statistics = TemplateStatistics()
        self._memo = Memo(params.memo_texts, params.memo_chars)
        self._leaf_of: dict[object, int] = {}  # leaf of a tree → number
        self._shard_overflow: int | None = None
        self._edits: dict[str, Edits] = {}
        self._masking: dict[str, MaskParams] = {}  # of services with keep-words of their own
        self._counts_as = np.zeros(0, np.int32)  # by seq, as long as templates are joined; else empty
        for entry in sorted((_decode(entry) for entry in entries), key=lambda entry: int(entry["seq"])):
            self._restore(entry)
        if stats is not None:
            self.apply(stats)

    # ---- answers

    def __len__(self) -> int:
        """Creation numbers given so far; the next template gets this one."""
        return len(self._templates)

    @property
    def ids(self) -> NDArray[np.uint32]:
        """The external id of each template, by seq; uint32[K]."""
        return self._ids[: len(self)]

    def tokens(self, seq: int) -> tuple[str, ...]:
        """The present tokens of a template; empty if it was forgotten."""
        template = self._templates[seq]
        return () if template is None else template.tokens

    def created(self, seq: int) -> tuple[str, ...]:
        """The tokens of the text that made a template; empty if it was forgotten."""
        template = self._templates[seq]
        return () if template is None else template.created

    def template(self, seq: int) -> str:
        """The present text of a template, for people."""
        return display(self.tokens(seq))

    def shown(self, seq: int) -> orjson.Fragment:
        """A template as anomalies show it: JSON of its id and its present text."""
        template = self._templates[seq]
        tokens = () if template is None else template.tokens
        return _shown(int(self._ids[seq]), tokens)

    def step(self, texts: Sequence[str], text_of_line: Int32s, ts: Int64s, level: NDArray[np.uint8]) -> TemplateStep:
        """Place each line, learn new templates, count.

        Args:
            texts: the batch's distinct `service NUL masked text`.
            text_of_line: for each line in source order, its place in `texts`; int32[N].
            ts: event time in ms; int64[N].
            level: level code; uint8[N].
        """
        seq_of_text, leaf_of_text = self._memo.find(texts)
        is_known = leaf_of_text >= 0
        if is_known.all():
            seq = self._final(seq_of_text[text_of_line])
            self.statistics.count(seq, ts, level)
            return TemplateStep(seq, [], [])
        batch = Batch(texts, text_of_line, seq_of_text, leaf_of_text)
        before = len(self)
        changed = self._place(batch)
        seq = self._final(batch.seq_of_line())
        self.statistics.resize(len(self))
        self.statistics.count(seq, ts, level)
        return TemplateStep(
            seq, list(range(before, len(self))), [(str(seq_), self._encode(seq_)) for seq_ in sorted(changed)]
        )

    def check(self) -> None:
        """Assert the invariants: bounds, ids, and that every template is in the tree that its own text finds."""
        assert len(self._memo) <= self.params.memo_texts
        assert self._live == sum(template is not None for template in self._templates)
        assert len(self) == len(self.service_of) >= self.statistics.size
        for service, state in self._services.items():
            assert all(int(self._ids[seq]) == number for number, seq in state.ids.items())
            for part, (tree, seqs) in state.trees.items():
                assert len(tree) == len(seqs)
                for cluster, seq in enumerate(seqs):
                    template = self._templates[seq]
                    assert template is not None
                    assert (template.tree, template.cluster, template.service) == (tree, cluster, service)
                    assert part.keep == signature(template.created, self.masking_of(service)).keep

    # ---- placing

    def _place(self, batch: Batch) -> set[int]:
        """Place every unknown text at its first line, and disturbed ones again at their next."""
        changed: set[int] = set()
        waiting = batch.unknown()
        while waiting:
            line, text = heapq.heappop(waiting)
            service = batch.texts[text].partition("\0")[0]
            before = len(self)
            seq, leaf, placed = self._place_one(service, self._tokens(batch, text, service))
            changed.update(range(before, len(self)))
            if placed.is_changed:
                changed.add(seq)
            for disturbed in placed.disturbed:
                number = self._leaf_number(disturbed)
                self._memo.disturb(number)
                for again in batch.leave(number, line):
                    heapq.heappush(waiting, again)
            batch.assign(text, line, seq, leaf)
            self._memo.remember(batch.texts[text], seq, leaf)
        return changed

    def _tokens(self, batch: Batch, text: int, service: str) -> tuple[str, ...]:
        """The tokens of a text, with the service's own masks if it has some."""
        if not self._edits.get(service, NO_EDITS).masks:
            return batch.tokens_of(text, self.params.masking)
        return self.tokens_of(service, batch.texts[text].partition("\0")[2])

    def _place_one(self, service: str, tokens: tuple[str, ...]) -> tuple[int, int, Placement]:
        """The template of one text, its leaf's number, and what placing it did."""
        state = self._services.get(service)
        part = self._part(service, state, tokens)
        tree, seqs = (state.trees.get(part) if state else None) or (self._tree(), [])
        may_grow = self._live < self.params.max_templates_shard and (
            state is None or len(state.ids) < self.params.max_templates
        )
        placed = tree.place(tokens, may_grow=may_grow)
        if placed.cluster is None:
            return self._overflow(service), NEVER, placed
        if placed.is_new:
            state = self._services.setdefault(service, _Service())
            number = self._free_id(state, tokens)
            self._adopt(state, part, tree, seqs, _Template(service, tokens, tree, placed.cluster), number)
        return seqs[placed.cluster], self._leaf_number(placed.leaf), placed

    def _part(self, service: str, state: _Service | None, tokens: tuple[str, ...]) -> Signature:
        """Which tree of the service these tokens belong to.

        Where many trees differ in their event words only, these words are values: more such texts go without them.
        The answer for a text never changes once it is placed, since trees stay and variants only grow.
        """
        part = signature(tokens, self.masking_of(service))
        if state is None or not part.events or part in state.trees:
            return part
        is_common = state.variants.get(_form(part), 0) >= self.params.max_variants
        return part._replace(events=()) if is_common else part

    def _adopt(
        self, state: _Service, part: Signature, tree: Tree, seqs: list[int], template: _Template, number: int
    ) -> int:
        """Enter a template that its tree has just made."""
        self._register(state, part, tree, seqs)
        seq = self._append(template, number)
        state.ids[number] = seq
        seqs.append(seq)
        return seq

    @staticmethod
    def _register(state: _Service, part: Signature, tree: Tree, seqs: list[int]) -> None:
        if part not in state.trees:
            state.trees[part] = tree, seqs
            form = _form(part)
            state.variants[form] = state.variants.get(form, 0) + 1

    def _tree(self) -> Tree:
        params = self.params
        return Tree(
            params.depth,
            params.sim_th,
            params.max_children,
            parametrize_numeric_tokens=params.parametrize_numeric_tokens,
        )

    def _append(self, template: _Template, number: int) -> int:
        seq = len(self)
        self._templates.append(template)
        self.service_of.append(template.service)
        self._ids = grown(self._ids, seq + 1)
        self._ids[seq] = number
        self._live += 1
        return seq

    def _overflow(self, service: str) -> int:
        """The overflow template of a service; that of no service where the whole shard is full."""
        state = self._services.get(service)
        if state is None:
            if self._shard_overflow is None:
                self._shard_overflow = self._append(_Template("", (OVERFLOW,), None, 0), OVERFLOW_ID)
            return self._shard_overflow
        if state.overflow is None:
            state.overflow = self._append(_Template(service, (OVERFLOW,), None, 0), OVERFLOW_ID)
        return state.overflow

    def _leaf_number(self, leaf: object) -> int:
        number = self._leaf_of.get(leaf)
        if number is None:
            number = self._leaf_of[leaf] = len(self._leaf_of) + 1
        return number

    def drop_memo(self) -> None:
        """Forget which texts were placed where; changes no answer."""
        self._memo.clear()

    # ---- catalogue

    def size_of(self, service: str) -> int:
        """The number of templates of a service."""
        return len(self._services[service].ids) if service in self._services else 0

    def export(self, service: str) -> list[dict[str, Any]]:
        """The templates of a service as JSON values, in order of creation: what a model artefact keeps, and `seed` takes."""
        seqs = sorted(self._services[service].ids.values()) if service in self._services else []
        return [self._entry(seq) for seq in seqs]

    def seed(self, service: str, entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
        """Give a service the templates of an artefact that it does not have; gives the entries to write.

        Args:
            service: who gets them; the service named in the entries does not count.
            entries: as `export` gave them.
        """
        made = []
        for entry in entries:
            number, state = int(entry["id"]), self._services.get(service)
            if number != OVERFLOW_ID and (state is None or number not in state.ids):
                made.append(self._insert(service, number, str(entry["created"]), str(entry["tokens"])))
        self._forget_places()
        return [(str(seq), self._encode(seq)) for seq in made]

    # ---- by hand

    def has(self, service: str, number: int) -> bool:
        """Whether a service has a template of this id."""
        return service in self._services and number in self._services[service].ids

    def tokens_of(self, service: str, masked: str) -> tuple[str, ...]:
        """The tokens of a masked text, with the service's own masks."""
        edits = self._edits.get(service, NO_EDITS)
        return tokenise(edits.masked([masked]) if edits.masks else [masked], self.params.masking)[0]

    def masking_of(self, service: str) -> MaskParams:
        """The masking that parts a service's templates: the job's, with the words that people keep."""
        return self._masking.get(service, self.params.masking)

    def final(self, seq: int) -> int:
        """The id of the template that one counts as: its own, unless it was joined to another by hand."""
        return self._edits.get(self.service_of[seq], NO_EDITS).final(int(self._ids[seq]))

    def edit(self, service: str, edits: Edits) -> list[int]:
        """Let these changes by hand, and no others, be in force for a service; gives the templates whose entry changed.

        No id changes. Words that part templates part those that are there, too: each goes to the tree of the text that made it.
        """
        before = self._edits.pop(service, NO_EDITS)
        if edits == before:
            if edits != NO_EDITS:
                self._edits[service] = edits
            return []
        if edits != NO_EDITS:
            self._edits[service] = edits
        state = self._services.get(service)
        changed: set[int] = set()
        if edits.keep_words != before.keep_words:
            self._masking.pop(service, None)
            if edits.keep_words:
                words = self.params.masking.keep_words | edits.keep_words
                self._masking[service] = replace(self.params.masking, keep_words=words)
            if state is not None:
                changed |= self._plant_anew(service, state, edits.keep_words)
        if state is not None:
            for number, seq in state.ids.items():
                template = self._templates[seq]
                assert template is not None
                if template.tree is not None:
                    template.tree.pin(template.cluster, is_pinned=number in edits.pinned)
                if edits.final(number) != before.final(number):
                    changed.add(seq)
        self._join_again()
        self._forget_places()
        return sorted(changed)

    def _plant_anew(self, service: str, state: _Service, words: frozenset[str]) -> set[int]:
        """Put a service's templates into the trees that their signatures name now; gives those whose tokens changed: a word that parts is shown."""
        state.trees, state.variants = {}, {}
        changed = set()
        for number, seq in sorted(state.ids.items(), key=lambda one: one[1]):
            template = self._templates[seq]
            assert template is not None
            tokens = tuple(
                made if made.lower() in words else now
                for made, now in zip(template.created, template.tokens, strict=True)
            )
            if tokens != template.tokens:
                changed.add(seq)
            part = self._part(service, state, template.created)
            tree, seqs = state.trees.get(part) or (self._tree(), [])
            placed = tree.insert(template.created, tokens)
            assert placed.cluster == len(seqs)
            template.tree, template.cluster = tree, placed.cluster
            self._register(state, part, tree, seqs)
            seqs.append(seq)
            state.ids[number] = seq
        return changed

    def _join_again(self) -> None:
        """Work out anew what each template counts as."""
        self._counts_as = np.zeros(0, np.int32)
        if any(edits.joined for edits in self._edits.values()):
            self._grow_joined()

    def _grow_joined(self) -> None:
        counts_as = np.arange(len(self), dtype=np.int32)
        for service, edits in self._edits.items():
            ids = self._services[service].ids if service in self._services else {}
            for number, seq in ids.items():
                counts_as[seq] = ids.get(edits.final(number), seq)
        self._counts_as = counts_as

    def _final(self, seq: Int32s) -> Int32s:
        """What each line's template counts as; int32[N]."""
        if not len(self._counts_as):
            return seq
        if len(self._counts_as) < len(self):
            self._grow_joined()
        final: Int32s = self._counts_as[seq]
        return final

    def entry(self, seq: int) -> tuple[str, bytes]:
        """A template's entry in the state: its key, and what to put there."""
        return str(seq), self._encode(seq)

    def drop(self, service: str) -> list[str]:
        """Forget a service's templates; gives the keys of the entries to remove. Their numbers are never used again."""
        state = self._services.pop(service, None)
        if state is None:
            return []
        seqs = sorted([*state.ids.values(), *([] if state.overflow is None else [state.overflow])])
        for seq in seqs:
            self._templates[seq] = None
            self.service_of[seq] = ""
        self._ids[seqs] = OVERFLOW_ID
        self.statistics.clear(seqs)
        self._live -= len(seqs)
        self._forget_places()
        return [str(seq) for seq in seqs]

    def _forget_places(self) -> None:
        """After the trees changed from outside: no memory of texts or leaves holds any more."""
        self.drop_memo()
        self._leaf_of.clear()

    # ---- state

    def touched(self) -> bytes:
        """The statistics rows changed since the last call."""
        return self.statistics.touched()

    def to_bytes(self) -> bytes:
        """All statistics rows."""
        return self.statistics.to_bytes()

    def apply(self, data: bytes) -> None:
        """Take over statistics rows."""
        self.statistics.apply(data)
        while len(self) < self.statistics.size:  # templates forgotten before
            self._templates.append(None)
            self.service_of.append("")
        self._ids = grown(self._ids, len(self))

    def _encode(self, seq: int) -> bytes:
        return orjson.dumps(self._entry(seq))

    def _entry(self, seq: int) -> dict[str, Any]:
        template = self._templates[seq]
        assert template is not None
        return {
            "v": ENTRY_VERSION,
            "seq": seq,
            "id": int(self._ids[seq]),
            "service": template.service,
            "created": " ".join(template.created),
            "tokens": " ".join(template.tokens),
        }

    def _restore(self, entry: dict[str, Any]) -> None:
        while len(self) < int(entry["seq"]):
            self._templates.append(None)
            self.service_of.append("")
        self._insert(str(entry["service"]), int(entry["id"]), str(entry["created"]), str(entry["tokens"]))

    def _insert(self, service: str, number: int, created: str, tokens: str) -> int:
        """Append a template as it once was; its id is kept."""
        if number == OVERFLOW_ID:
            seq = self._append(_Template(service, (OVERFLOW,), None, 0), OVERFLOW_ID)
            if service in self._services:
                self._services[service].overflow = seq
            else:
                self._shard_overflow = seq
            return seq
        made = tuple(created.split())
        state = self._services.setdefault(service, _Service())
        part = self._part(service, state, made)
        tree, seqs = state.trees.get(part) or (self._tree(), [])
        placed = tree.insert(made, tokens.split())
        assert placed.cluster == len(seqs)
        seq = self._adopt(state, part, tree, seqs, _Template(service, made, tree, placed.cluster), number)
        self.statistics.resize(len(self))
        return seq

    @staticmethod
    def _free_id(state: _Service, tokens: Sequence[str]) -> int:
        """A 32-bit hash of the text that made the template, the next free one where two collide."""
        number = int(xxhash.xxh3_64_intdigest(" ".join(tokens).encode())) & 0xFFFFFFFF
        while number == OVERFLOW_ID or number in state.ids:
            number = (number + 1) & 0xFFFFFFFF
        return number


def template_hex(template_id: int) -> str:
    """A template id as people see it.

    >>> template_hex(0x2f1)
    '000002f1'
    """
    return f"{template_id:08x}"


def _form(part: Signature) -> tuple[Any, ...]:
    """What signatures that differ in their event words only have in common."""
    return part.length, part.keep, part.lead, tuple(place for place, _ in part.events)


def _decode(data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = orjson.loads(data)
    if entry.get("v") != ENTRY_VERSION:
        raise DriftwoodError(f"a template entry has version {entry.get('v')}, this program reads {ENTRY_VERSION}.")
    return entry


@lru_cache(maxsize=16_384)
def display(tokens: tuple[str, ...]) -> str:
    """The text of a template, for people.

    >>> display(("uid=", "<num>", "tty=", "by=", "x"))
    'uid=<num> tty= by=x'
    """
    return _VALUE_OF_KEY.sub("=", " ".join(tokens))


@lru_cache(maxsize=16_384)
def _shown(number: int, tokens: tuple[str, ...]) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps({"template_id": template_hex(number), "template": display(tokens)}))
