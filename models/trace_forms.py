"""The forms of stack traces: which lines may belong to one, and what a line is after the lines before it.

Java and Kotlin (`Caused by`, `Suppressed`, `... 12 more`), Python (chained, groups), Go (panics, goroutine dumps, `%+v`), Node (source context,
`[cause]`, property dumps), .NET (`--->`, `--- End of …`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from models.parsing.levels import NONE, WARN

#: Characters of a name that are kept.
MAX_NAME: Final = 200
#: Characters of a line that are looked at.
_MAX_LOOK: Final = 2_000

# A type's name with what tells an exception; qualified ones are hardly ever the start of an ordinary line.
_TYPE: Final = r"[A-Za-z_$][A-Za-z0-9_$.]*(?:Exception|Error|Throwable|Failure|Fault|Interrupt)[A-Za-z0-9_]*"
_GO_NAME: Final = r"(?:[A-Za-z0-9_.~-]+/)*[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*(?:\.\(\*?[A-Za-z0-9_]+(?:\[[^\]]*\])?\))?\.[A-Za-z_][A-Za-z0-9_.\[\]-]*"
_JS_FILE: Final = r"(?:(?:file://)?/?[A-Za-z0-9_@./\\:-]+\.(?:js|mjs|cjs|ts|jsx|tsx)|node:[a-z_/]+):\d+"

#: What no ordinary line begins with, or hardly any: RE2 syntax for polars, anchored so that most lines fail at their first characters.
_CANDIDATE: Final = (
    r"^(?:[ \t]|Caused by: |Suppressed: |Wrapped by: |Traceback \(|During handling of |The above exception |panic: |fatal error: |goroutine \d"
    r"|\[signal |runtime stack:$|\[CIRCULAR |created by |Exception in thread |Unhandled |Uncaught |--- End of |\.\.\. \d"
    rf"|{_TYPE}(?:: |:?$| \[)|{_GO_NAME}$|{_JS_FILE}$)"
)

# Lines that are part of a trace by their own form.
_AT: Final = re.compile(r"\s+at (?P<where>.*[(.:<].*)")
_PY_FRAME: Final = re.compile(r'[\s|]{2,}File "(?P<file>[^"]+)", line \d+(?:, in (?P<function>.+))?')
_GO_FRAME: Final = re.compile(r"\s+(?:/|[A-Za-z]:|_)\S*\.(?:go|s|c|h):\d+(?: \+0x[0-9a-f]+)?$")
_ELLIPSIS: Final = re.compile(
    r"\s*\.\.\. \d+ (?:more|common frames|lines)|\s*--- End of |\s*- locked <|\s+\[Previous line repeated "
)
_CHAIN: Final = re.compile(
    rf"\s*(?:Caused by: |Suppressed: |Wrapped by: |---> |\(Inner Exception #\d+\) |\[cause\]: |\[CIRCULAR REFERENCE: ?)\s*(?P<type>{_TYPE}|[\w$.]+)?"
)
_PY_CHAIN: Final = re.compile(
    r"[\s|]*(?:During handling of the above exception|The above exception was the direct cause)"
)
# Lines that begin one.
_TRACEBACK: Final = re.compile(r"[\s|+]*(?:Exception Group )?Traceback \(most recent call last\):")
_GOROUTINE: Final = re.compile(r"goroutine \d+ (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[[^\]]*\]:$|\[signal SIG|runtime stack:$")
_PANIC: Final = re.compile(r"(?P<blank>\s*)(?P<type>panic|fatal error): (?P<what>runtime error: [^\[:]*|[^\[:(0-9]*)")
_UNCAUGHT: Final = re.compile(
    rf'(?:Exception in thread "[^"]*" |Unhandled [Ee]xception[.:] |Uncaught (?:Exception )?)(?P<type>{_TYPE}|[\w$.]+)?'
)
_EXCEPTION: Final = re.compile(rf"(?P<blank>\s*)(?P<type>{_TYPE})(?=: |:?$| \[)")
_JS_PLACE: Final = re.compile(rf"{_JS_FILE}$")
_GO_PLAIN: Final = re.compile(rf"{_GO_NAME}$")
# Lines that are part only where they stand: right after another line of a trace.
_PY_END: Final = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?::(?: |$)|$)")
_GO_CALL: Final = re.compile(
    rf"(?:created by )?(?P<name>{_GO_NAME}|panic|main)(?:\(.*\)| in goroutine \d+)?$|exit status \d+$"
)
_BRACE_END: Final = re.compile(r"\s*[}\])]+[,;]?$")
_NODE_VERSION: Final = re.compile(r"Node\.js v\d")
#: A message goes on: PostgreSQL's `  Position: 15`, `  Hint: …`.
_DETAIL: Final = re.compile(r"\s+[A-Z]\w+: ")
_SCRIPT: Final = re.compile(r"\(?(?P<file>[^()]*?):\d+:\d+\)?(?: \{)?$")
_GROUP: Final = re.compile(r"\s+[|+]")
#: The end of a type's name inside a line; searched for without what may stand before it, which would be tried at every letter.
_INSIDE: Final = re.compile(r"(?:Exception|Error|Throwable|Failure|Fault|Interrupt)[A-Za-z0-9_]*")
_BEFORE: Final = re.compile(r"[A-Za-z0-9_$.]*$")
_NUMBERS: Final = re.compile(r"\$\$[\w$]*(?:/0x\w+)?|0x[0-9a-fA-F]+|\d+")
_MODULE: Final = re.compile(r"^(?:async |new )?(?:[\w.@-]*/{1,2})?(?=[\w$<])")


@dataclass(slots=True)
class Before:
    """The newest line of a key, as the one after it sees it."""

    origin: int
    ts: int
    level: int
    is_plain: bool  # no line of a trace
    exception: str = ""  # a type that it names


@dataclass(slots=True)
class Scene:
    """What an open trace waits for.

    Attributes:
        between: ordinary lines since its last.
        awaits_type: Python names the exception after the frames.
        is_chained: Python said that another one follows.
        is_named: the newest line named an exception: its message may go on.
        in_braces: Node prints the properties of an error after its frames.
    """

    between: int = 0
    language: str = ""
    has_frames: bool = False
    awaits_type: bool = False
    is_chained: bool = False
    is_named: bool = False
    in_braces: bool = False


def type_in(text: str) -> str:
    """The type that a line names anywhere, empty if none.

    >>> type_in("retry after java.io.IOException: gone"), type_in("all is well")
    ('java.io.IOException', '')
    """
    text = text[:_MAX_LOOK]
    found = _INSIDE.search(text)
    if found is None:
        return ""
    before = _BEFORE.search(text, max(0, found.start() - MAX_NAME), found.start())
    return ((before[0].lstrip(".0123456789") if before else "") + found[0])[:MAX_NAME]


def candidates(messages: pa.LargeStringArray) -> npt.NDArray[np.bool_]:
    r"""Marks the lines that may belong to a trace by their own form, in one pass over the column.

    >>> candidates(pa.array(["order 17 paid", "\tat a.B.c(B.java:1)", "java.io.IOException: gone"], pa.large_string())).tolist()
    [False, True, True]
    """
    column = pl.from_arrow(messages)
    assert isinstance(column, pl.Series)
    found: npt.NDArray[np.bool_] = column.str.contains(_CANDIDATE).fill_null(value=False).to_numpy()
    return found


@dataclass(frozen=True, slots=True)
class Mark:
    """What a line of a trace is.

    Attributes:
        place: `part` of the open trace, else of the line before; `under` the line before, as a new trace; `head` of its own.
    """

    place: str
    language: str = ""
    exception: str = ""
    frame: str = ""
    is_frame: bool = False
    is_cause: bool = False  # frames of another exception follow
    awaits_type: bool | None = None
    is_chained: bool = False
    in_braces: bool | None = None  # None: as before


def read_line(message: str, opened: Scene | None, level: int, before: Before | None) -> Mark | None:
    """What a line is in a trace, after the open one and the line before it; None if it is an ordinary line."""
    text = message[:_MAX_LOOK]
    is_next = opened is not None and opened.between == 0
    # A warning or an error right before begins something new, also where an older trace is still open.
    is_under_error = before is not None and before.is_plain and before.level >= WARN
    own = "part" if is_next or not is_under_error else "under"
    if not text:
        return None
    if text[0] in " \t|.-" and (mark := _frame(text, own)):
        return mark
    if match := _CHAIN.match(text):
        return Mark(own, exception=match["type"] or "", is_cause=True)
    if _PY_CHAIN.match(text):
        return Mark(own, "python", is_chained=True)
    if _TRACEBACK.match(text):
        is_inside = opened is not None and (
            opened.is_chained or (is_next and text[0] in " |+") or not opened.has_frames
        )
        place = "part" if is_inside and own == "part" else "under" if is_under_error else "head"
        return Mark(place, "python", is_cause=True, awaits_type=True)
    if _GOROUTINE.match(text):
        is_inside = opened is not None and opened.language == "go"
        return Mark("part" if is_inside else "under" if is_under_error else "head", "go", is_cause=text[0] == "g")
    if match := _PANIC.match(text):
        # Indented: one that was recovered, and the panic after it.
        return Mark("part" if match["blank"] else "head", "go", f"{match['type']}: {match['what'].strip()}")
    if match := _UNCAUGHT.match(text):
        return Mark("head", exception=match["type"] or "")
    if opened is not None and own == "part" and (mark := _inside(text, opened, level)):
        return mark
    if match := _EXCEPTION.match(text):
        return _exception(match, opened, level, before, is_under_error=is_under_error)
    if _JS_PLACE.match(text):
        return Mark("under" if is_under_error else "head", "node")
    if level == NONE and is_under_error and _GO_PLAIN.match(text) and not _EXCEPTION.match(text):
        return Mark("under", "go", frame=_plain(text))
    return None


def _frame(text: str, own: str) -> Mark | None:
    """A line that is a frame, or stands for frames, by its own form."""
    if match := _AT.match(text):
        return Mark(own, frame=_function(match["where"]), is_frame=True, in_braces=text.endswith("{") or None)
    if match := _PY_FRAME.match(text):
        file = match["file"].replace("\\", "/").rpartition("/")[2]
        return Mark(own, "python", frame=f"{file}:{match['function'] or ''}", is_frame=True, awaits_type=True)
    if _GO_FRAME.match(text):
        return Mark(own, "go", is_frame=True)
    if _ELLIPSIS.match(text):
        return Mark(own, is_frame=True)
    return None


def _inside(text: str, opened: Scene, level: int) -> Mark | None:
    """A line that belongs to a trace because it follows one of its lines."""
    if _is_detail(text, opened, level):
        return Mark("part", in_braces=opened.in_braces and text[0] != "}")
    if opened.language == "go" and (match := _GO_CALL.match(text)) and (text.endswith(")") or not opened.between):
        return Mark("part", frame=_plain(match["name"] or ""))
    if opened.between:
        return None
    if opened.awaits_type and (match := _PY_END.match(text)) and (level == NONE or _EXCEPTION.match(text)):
        return Mark("part", exception=match["type"], awaits_type=False)
    return Mark("part") if _NODE_VERSION.match(text) and opened.has_frames else None


def _is_detail(text: str, opened: Scene, level: int) -> bool:
    """Whether an indented line, or a closing brace, is one that the trace waits for: source text, carets, properties, more of a message."""
    if level != NONE:
        return False
    is_indented = text[0] in " \t"
    if opened.in_braces:
        return is_indented or _BRACE_END.match(text) is not None
    if not is_indented:
        return False
    if opened.awaits_type or (opened.language == "python" and _GROUP.match(text)):
        return True
    if opened.between:
        return False
    return (opened.language == "node" and not opened.has_frames) or (
        opened.is_named and _DETAIL.match(text) is not None
    )


def _exception(
    match: re.Match[str], opened: Scene | None, level: int, before: Before | None, *, is_under_error: bool
) -> Mark:
    """A line that names an exception first."""
    name = match["type"]
    if opened is not None and (opened.awaits_type or (opened.language == "node" and not opened.has_frames)):
        return Mark("part", exception=name, awaits_type=False)
    is_qualified = "." in name
    is_same = before is not None and level in (NONE, before.level)
    if is_qualified and is_same and (is_under_error or match["blank"]):
        return Mark("under", exception=name)
    return Mark("head", exception=name)


def _function(where: str) -> str:
    """The function of an `at` line, for Node with its file, without numbers and generated parts.

    >>> _function("java.base/java.lang.Thread.run(Thread.java:833)"), _function("async load (/app/src/cart.js:10:5)")
    ('java.lang.Thread.run', 'load@cart.js')
    >>> _function("Shop.Cart.Add(String sku) in /src/Cart.cs:line 42"), _function("/app/x.js:1:2")
    ('Shop.Cart.Add', '@x.js')
    """
    script = _SCRIPT.search(where)
    if script:
        name = where[: script.start()].strip().removeprefix("async ").removeprefix("new ")
        return f"{_plain(name)}@{script['file'].replace(chr(92), '/').rpartition('/')[2]}"
    return _plain(_MODULE.sub("", where.partition("(")[0].strip()))


def _plain(name: str) -> str:
    """A function's name without its arguments and without numbers."""
    if name.endswith(")"):
        name = name[: name.rfind("(")]
    return _NUMBERS.sub("", name)
