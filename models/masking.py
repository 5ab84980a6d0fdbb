"""Masking: fold the values of a log line, so that lines of one kind become one text.

Two stages, because they cost differently:

- *masks* run over the whole column of a batch (polars' Rust regex: linear time, no look-around) and fold what has many
  values: numbers, addresses, identifiers, paths. They decide how many distinct texts a batch has.
- *shapes* run only on texts never seen before; they part and fold what is left, so that Drain's tokens line up:
  `key=value` is parted, a list of identifiers becomes one.

`models.parameters` repeats both on one message and keeps where each piece came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import polars as pl

from models.drain import PARAMETER, is_value_like
from models.errors import SettingsError
from models.vocabulary import DOER_WORDS, EVENT_WORDS, KEEP_WORDS, NAMING_WORDS, WAY_WORDS

CUT: Final = "<cut>"  # stands for what a cap took away
LITERAL_PARAMETER: Final = "<any>"  # a message's own "<*>", which would count as a parameter in the tree
PUNCTUATION: Final = ".,:;!?\"'`()[]{}<>=*|#"


class Mask(NamedTuple):
    """One substitution: a regular expression that Rust's regex crate and Python's re read alike, and what it becomes.

    Attributes:
        pattern: `(?-u:...)` makes a part ASCII; `$` stands only as the last of alternatives, for the end of the text.
        replacement: `${1}` keeps a group.
        needs: a literal without which nothing matches; columns without it are passed over.
    """

    pattern: str
    replacement: str
    needs: str = ""


_B: Final = r"(?-u:\b)"  # ASCII, or Rust leaves its fast automaton on the first accented letter
_IP: Final = r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?::[0-9]+)?"
_NAME: Final = "[A-Za-z0-9_.@+$%~(){}-]+"  # one part of a Windows path; within a path it may have spaces
_DAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH: Final = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
#: Last labels of a host name that are no usual file suffix or package name.
TOP: Final = (
    "com|net|org|edu|gov|mil|info|biz|arpa|local|localdomain|internal|lan|"
    "uk|de|fr|jp|cn|ru|br|nl|es|hk|tw|kr|au|ca|ch|se|no|dk|fi|cz|at|be|mx|us|eu"
)

#: Ordered: what is longer and more certain first, the bare number last.
DEFAULT_MASKS: Final = (
    Mask("<redacted:[a-z0-9_-]+:[0-9a-f]+>", "<redacted>", "<redacted:"),
    Mask(r"<[0-9]+ ?(?:ns|us|ms|s|secs?|m|mins?|h|hrs?)(?-u:\b)", "<amount>", "<"),  # less than one unit
    Mask(r"(?:\n[ \t]+[^\n]*)+", " <lines>", "\n"),  # indented lines are detail, of any number: stack frames, dumps
    Mask(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>()\[\]{},;|]+", "<url>", "://"),
    Mask(
        r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}/[0-9]{1,2}/[0-9]{4})"
        r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?",
        "<time>",
    ),
    Mask(  # the method is the event
        r'"(GET|PUT|POST|HEAD|DELETE|PATCH|OPTIONS|CONNECT) [^" ]*((?: HTTP/[0-9.]+)?)"', "${1} <path>${2}", '"'
    ),
    # what is said is the event where it comes quoted before keys
    Mask(r'(^|\] )"([A-Za-z][^"\n]*)"( [A-Za-z][A-Za-z0-9_]*=)', "${1}${2}${3}", '" '),
    Mask(r'"[^"\n]*"', "<str>", '"'),
    Mask(rf"[A-Za-z]:\\(?:{_NAME}(?: {_NAME}){{0,3}}\\)+(?:{_NAME})?", "<path>", ":\\"),
    Mask(rf"(?:[A-Za-z]:)?(?:\\{_NAME}){{2,}}\\?", "<path>", "\\"),
    Mask(r"[A-Za-z0-9_.~$-]*(?:/[A-Za-z0-9_.@+$%~:-]+){2,}/?(?:\?[^\s\"']*)?", "<path>", "/"),
    Mask("[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", "<uuid>", "-"),
    Mask(f"/?{_IP}(?:, ?{_IP})*", "<ip>"),
    Mask(  # sizes, durations
        rf"{_B}[0-9]+(?:\.[0-9]+)?(?: ?[KMGTPk]i?[bB]| B|[bBkKMGT]| [bB]ytes?|ns|us|ms|s|secs?|m|mins?|h|hrs?|d){_B}",
        "<amount>",
    ),
    Mask(rf"([A-Za-z)]\.{{2,}})[0-9]+{_B}", "${1}<num>", ".."),  # a row of dots leads to a value
    Mask(  # anything of letters and digits; hardware addresses
        f"{_B}(?:[0-9a-fA-F]{{2}}:){{5}}[0-9a-fA-F]{{2}}{_B}"
        "|(?:[A-Za-z_][A-Za-z0-9_.$@-]*[0-9]|[0-9][0-9.-]*[A-Za-z_])[A-Za-z0-9_.$@-]*",
        "<id>",
    ),
    Mask("-?[0-9]+(?:[.,:/-][0-9]+)*", "<num>"),
)
DEFAULT_SHAPES: Final = (
    Mask(r"(^|[\s=(,:\[{])[bru]?'[^'\n]*'", "${1}<str>"),
    Mask(rf"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.(?:{TOP})(?::<num>)?([^A-Za-z0-9_.:-]|[:.](?:\s|$)|$)", "<host>${1}"),
    Mask(f"{_DAY},? (?:<num> )?{_MONTH}(?: +<num>)+(?: [A-Z]{{3,4}})?(?: <num>)?", "<time>"),
    Mask(r"\{[^{}]*\}", "<obj>"),
    Mask(r"\{[^{}]*\}", "<obj>"),
    Mask(r"\{[^{}]*\}", "<obj>"),
    Mask(r"\[[^\[\]]*,[^\[\]]*\]", "<list>"),
    Mask("<id>(?:(?:, ?| )<id>)+", "<id>"),
    Mask("<num>(?:, ?<num>)+", "<num>"),
    Mask(r"([(\[]) ?(?:<num>|\*+)(?: +(?:<num>|\*+))* ?([)\]])", "${1}<num>${2}"),  # a row of readings, of any number
    Mask("[,;&]([A-Za-z_.]+=)", ", ${1}"),
    Mask("=", "= "),
    Mask(r"\(([^)\s])", " (${1}"),
)
_PLACEHOLDER: Final = re.compile("<[a-z]+>")
_NAMED: Final = re.compile(r"([^\W\d]{2,})[:=({<\[]")
_VERB: Final = re.compile("[A-Za-z]?[a-z]{2,}(?:ed|ing)")
_CONSTANT: Final = re.compile("[A-Z][A-Z_]{2,}")  # RUNNING, TASK_ABORT: the members of an enumeration


class Signature(NamedTuple):
    """What parts templates besides Drain: words with their places.

    Attributes:
        length: number of tokens; Drain parts by it first of all.
        keep: keep-words; always part.
        events: event words, upper-case constants, keys of pairs, and the first plain word; part up to a bound on variants.
        lead: what the tree would not see of the first token where that is value-like: the word before its value, else
            `<*>`; empty for a plain word.
    """

    length: int
    keep: tuple[tuple[int, str], ...]
    events: tuple[tuple[int, str], ...]
    lead: str


@dataclass(frozen=True)
class MaskParams:
    """What is folded, what never is, and how long a line may be.

    Attributes:
        masks: substitutions over whole columns, in order.
        shapes: substitutions on texts never seen before, in order.
        keep_words: lower-case words that always part templates: two texts that differ in one never share a template.
        event_words: lower-case words that part templates where they are no value; upper-case constants (RUNNING), keys
            (`key=`) and the first plain word of a text do likewise. None: no such parting.
        max_tokens: tokens of a text; the rest is cut with a mark.
        max_chars: characters of a message; the rest is cut with a mark, before masking.
    """

    masks: tuple[Mask, ...] = DEFAULT_MASKS
    shapes: tuple[Mask, ...] = DEFAULT_SHAPES
    keep_words: frozenset[str] = KEEP_WORDS
    event_words: frozenset[str] | None = EVENT_WORDS
    max_tokens: int = 256
    max_chars: int = 8192

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_chars < 1:
            raise SettingsError("max_tokens and max_chars must be at least 1.")
        for mask_ in (*self.masks, *self.shapes):
            _check(mask_)

    def to_json(self) -> dict[str, Any]:
        """The parameters as JSON values; what is default is left out."""
        values: dict[str, Any] = {"max_tokens": self.max_tokens, "max_chars": self.max_chars}
        if self.masks != DEFAULT_MASKS:
            values["masks"] = [list(mask_) for mask_ in self.masks]
        if self.shapes != DEFAULT_SHAPES:
            values["shapes"] = [list(mask_) for mask_ in self.shapes]
        if self.keep_words != KEEP_WORDS:
            values["keep_words"] = sorted(self.keep_words)
        if self.event_words != EVENT_WORDS:
            values["event_words"] = None if self.event_words is None else sorted(self.event_words)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MaskParams:
        """The inverse of `to_json`."""
        given: dict[str, Any] = dict(values)
        for name in given.keys() & {"masks", "shapes"}:
            given[name] = tuple(Mask(*pair) for pair in given[name])
        for name in given.keys() & {"keep_words", "event_words"}:
            given[name] = None if given[name] is None else frozenset(given[name])
        return cls(**given)


def mask(messages: pl.Series | Sequence[str], params: MaskParams) -> pl.Series:
    """The masked text of each message, as one polars column.

    Shapes: messages String[N] → String[N].

    >>> mask(["took 35ms, 2 of 17", "GET /a/b/c from 10.0.0.7:80"], MaskParams()).to_list()
    ['took <amount>, <num> of <num>', 'GET <path> from <ip>']
    """
    texts = messages if isinstance(messages, pl.Series) else pl.Series("text", messages, dtype=pl.String)
    longest = texts.str.len_bytes().max()
    if isinstance(longest, int) and longest > params.max_chars:
        is_long = texts.str.len_chars() > params.max_chars
        texts = texts.zip_with(~is_long, texts.str.head(params.max_chars) + f" {CUT}")
    return _substitute(texts, params.masks)


def tokenise(texts: Sequence[str], params: MaskParams) -> list[tuple[str, ...]]:
    """The tokens that Drain sees of each masked text: shaped, parted at white space, capped.

    >>> tokenise(["uid=<num> by (pid=<num>)"], MaskParams())
    [('uid=', '<num>', 'by', '(pid=', '<num>)')]
    """
    shaped = _substitute(pl.Series("text", texts, dtype=pl.String), params.shapes)
    return [cap(text.split(), params.max_tokens) for text in shaped.to_list()]


def cap(tokens: list[str], max_tokens: int) -> tuple[str, ...]:
    """The tokens within the bound, none of them `<*>`."""
    if PARAMETER in tokens:
        tokens = [LITERAL_PARAMETER if token == PARAMETER else token for token in tokens]
    return tuple(tokens) if len(tokens) <= max_tokens else (*tokens[:max_tokens], CUT)


def signature(tokens: Sequence[str], params: MaskParams) -> Signature:
    """The words of a text that part templates, with their places.

    >>> signature(("Service", "nginx", "started."), MaskParams())
    Signature(length=3, keep=((2, 'started'),), events=(), lead='')
    >>> signature(("[req:", "<id>]", "Task", "state=", "RUNNING", "reading"), MaskParams())
    Signature(length=6, keep=(), events=((2, 'task'), (3, 'state'), (5, 'reading')), lead='')
    """
    keep: list[tuple[int, str]] = []
    events: list[tuple[int, str]] = []
    keep_words, event_words = params.keep_words, params.event_words
    words = [_word(token) for token in tokens]
    was_value, is_value, is_led, brackets = False, False, False, 0
    for place, word in enumerate(words):
        # What leads is a plain word after nothing but masks and bracketed context; at place 0 Drain's tree parts by itself.
        leads = not is_led and brackets == 0 and word.may_lead
        if word.lower in keep_words:
            keep.append((place, word.lower))
        elif event_words and word.is_equals:
            is_parted = events[-1:] and events[-1][0] == place - 1
            if place > 1 and not was_value and not is_parted and words[place - 1].core:  # `key = value`
                events.append((place - 1, words[place - 1].lower))
        elif event_words and not is_value:
            is_event = (
                word.lower in event_words or word.is_verb or (place and (word.is_key or (leads and word.is_plain)))
            )
            if (is_event or word.is_constant) and not _is_doer(words, place):
                events.append((place, word.lower if is_event else word.core))
        is_led = is_led or leads
        was_value, is_value = is_value, word.is_key or word.is_equals or (word.is_naming and not is_value)
        if word.brackets:
            brackets = max(0, brackets + word.brackets)
    return Signature(len(tokens), tuple(keep), tuple(events), words[0].lead if words else "")


def _is_doer(words: Sequence[_Word], place: int) -> bool:
    """Whether a word stands where a name does: `for backup from`."""
    return 0 < place < len(words) - 1 and words[place - 1].lower in DOER_WORDS and words[place + 1].lower in WAY_WORDS


class _Word(NamedTuple):
    """What a token is, apart from its place."""

    core: str
    lower: str
    is_plain: bool
    is_constant: bool
    is_verb: bool
    is_naming: bool  # what follows is a value
    is_key: bool  # so too: `key=`; keys are no values, so two texts differ by them
    is_equals: bool  # so too: `=` alone
    may_lead: bool
    lead: str
    brackets: int


@lru_cache(maxsize=1 << 15)
def _word(token: str) -> _Word:
    core = _PLACEHOLDER.sub("", token).strip(PUNCTUATION)
    lead = ""
    if is_value_like(token):
        named = _NAMED.match(token)
        lead = named[1] if named else PARAMETER
    return _Word(
        core=core,
        lower=core.lower(),
        is_plain=core.isalpha(),
        is_constant=_CONSTANT.fullmatch(core) is not None,
        is_verb=_VERB.fullmatch(core) is not None,
        is_naming=token.lower() in NAMING_WORDS,
        is_key=len(core) > 0 and token.endswith("="),
        is_equals=not core and token.endswith("="),
        may_lead=token[0] != "[" and lead != PARAMETER,
        lead=lead,
        brackets=token.count("[") - token.count("]"),
    )


def _substitute(texts: pl.Series, masks: Iterable[Mask]) -> pl.Series:
    for pattern, replacement, needs in masks:
        if not needs or texts.str.contains(needs, literal=True).any():
            texts = texts.str.replace_all(pattern, replacement)
    return texts


@lru_cache(maxsize=1024)
def python_pattern(pattern: str) -> re.Pattern[str]:
    """The same expression for Python's re."""
    return re.compile(pattern.replace("(?-u:", "(?a:").replace("|$)", r"|\Z)"))


@lru_cache(maxsize=1024)
def _check(mask_: Mask) -> None:
    """Refuse a mask that one of the two engines cannot read; once a mask."""
    try:
        python_pattern(mask_.pattern)
        pl.Series([""]).str.replace_all(mask_.pattern, mask_.replacement)
    except (re.error, pl.exceptions.ComputeError) as error:
        raise SettingsError(
            f"The mask {mask_.pattern!r} cannot be read: {error}. It must be a regular expression of Rust's regex crate "
            "and of Python, without look-around and back-references."
        ) from error
