"""Other miners and other masks beside ours, so that the effect of each step can be measured; the job uses none of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import xxhash

from models.drain import drain3_groups
from models.errors import SettingsError
from models.grouping import Grouped, LineMiner, Miner
from models.masking import Mask, MaskParams, mask, tokenise
from models.miners.iplom import Iplom
from models.miners.spell import Spell
from models.templates import TemplateParams, display

#: drain: ours · drain3: the package with its defaults · spell, iplom: from their papers.
PARSERS: Final = ("drain", "drain3", "spell", "iplom")
#: default: ours · five: what miners are mostly given · none.
MASKS: Final = ("default", "five", "none")
#: all: ours · half: every second of them, by hash, as if the list had been written for other systems · keep: keep-words only ·
#: none: no word parts templates.
WORDS: Final = ("all", "half", "keep", "none")

_B: Final = r"(?-u:\b)"
_FIVE: Final = (
    Mask("[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", "<uuid>"),
    Mask(rf"{_B}[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]{{1,3}}(?::[0-9]+)?{_B}", "<ip>"),
    Mask(r"(?:/[A-Za-z0-9_.-]+){2,}", "<path>", "/"),
    Mask(rf"{_B}0x[0-9a-fA-F]+{_B}", "<hex>", "0x"),
    Mask(rf"{_B}-?[0-9]+(?:\.[0-9]+)?{_B}", "<num>"),
)


def compared_params(params: TemplateParams, masks: str = "default", words: str = "all") -> TemplateParams:
    """The settings with other masks or fewer words.

    Raises:
        SettingsError: there is no such choice.
    """
    if masks not in MASKS or words not in WORDS:
        raise SettingsError(
            f"masks is {masks!r} and words {words!r}; choose of {', '.join(MASKS)} and {', '.join(WORDS)}."
        )
    masking = params.masking
    if masks != "default":
        masking = replace(masking, masks=_FIVE if masks == "five" else (), shapes=())
    if words == "half":
        events = None if masking.event_words is None else _half(masking.event_words)
        masking = replace(masking, keep_words=_half(masking.keep_words), event_words=events)
    elif words != "all":
        masking = replace(masking, event_words=None, keep_words=masking.keep_words if words == "keep" else frozenset())
    return replace(params, masking=masking)


class OtherMiner:
    """Mines the messages of one service with another miner; keeps the tokens of all of them until asked.

    Args:
        parser: one of `PARSERS`.
        masking: what is folded before.
    """

    def __init__(self, parser: str, masking: MaskParams) -> None:
        self._parser = parser
        self._masking = masking
        self._lines: list[tuple[str, ...]] = []

    @property
    def lines(self) -> int:
        """Messages so far."""
        return len(self._lines)

    def add(self, messages: Sequence[str]) -> None:
        """Take one batch."""
        texts = mask(messages, self._masking).to_list()
        distinct = list(dict.fromkeys(texts))
        tokens = dict(zip(distinct, tokenise(distinct, self._masking), strict=True))
        self._lines += [tokens[text] for text in texts]

    def grouped(self) -> Grouped:
        """The templates of all messages so far."""
        groups, templates = _mined(self._parser, self._lines)
        shown = [display(tokens) for tokens in templates]
        return Grouped(groups, shown, [xxhash.xxh3_64_intdigest(text.encode()) & 0xFFFFFFFF for text in shown])


def miner(parser: str, params: TemplateParams | None = None) -> LineMiner:
    """The miner of a name.

    Raises:
        SettingsError: there is none.

    >>> spell = miner("spell")
    >>> spell.add(["took 5 ms", "took 6 ms", "bye"])
    >>> spell.grouped().templates
    ['took <num> ms', 'bye']
    """
    if parser not in PARSERS:
        raise SettingsError(f"there is no parser {parser!r}; choose one of {', '.join(PARSERS)}.")
    params = params or TemplateParams()
    return Miner(params) if parser == "drain" else OtherMiner(parser, params.masking)


def _half(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if xxhash.xxh3_64_intdigest(word.encode()) % 2)


def _mined(parser: str, lines: Sequence[tuple[str, ...]]) -> tuple[list[int], Sequence[tuple[str, ...]]]:
    if parser == "drain3":
        return drain3_groups(lines)
    if parser == "iplom":
        return Iplom().mine(lines)
    spell = Spell()
    return [spell.add(line) for line in lines], spell.templates
