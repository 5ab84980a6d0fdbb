"""One scale for every log level: words of all common loggers, and numbers by the name of the field they came in.

`LEVELS` is the scale; a record keeps the index. 0 means that nothing is known, not that the line is harmless.
"""

from __future__ import annotations

import math
import re
from typing import Final

LEVELS: Final[tuple[str, ...]] = ("", "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
NONE, TRACE, DEBUG, INFO, WARN, ERROR, FATAL = range(7)

# Source: OpenTelemetry logs data model, appendix B (severity mappings of syslog, Log4j, JUL, .NET, Zap);
# Serilog's Verbose is its lowest level; loguru's SUCCESS (25) lies between INFO and WARNING.
WORDS: Final[dict[str, int]] = {
    **dict.fromkeys(("trace", "trc", "verbose", "verb", "vrb", "finest", "all", "v"), TRACE),
    **dict.fromkeys(("debug", "dbg", "finer", "fine", "config", "d"), DEBUG),
    **dict.fromkeys(
        ("info", "inf", "information", "informational", "notice", "note", "log", "success", "default", "i", "n"), INFO
    ),
    **dict.fromkeys(("warn", "warning", "wrn", "warnings", "w"), WARN),
    **dict.fromkeys(("error", "err", "severe", "eror", "e"), ERROR),
    **dict.fromkeys(
        ("fatal", "ftl", "critical", "crit", "alert", "emerg", "emergency", "panic", "dpanic", "c", "f", "a"), FATAL
    ),
}

# RFC 5424, 6.2.1: emergency, alert, critical, error, warning, notice, informational, debug.
SYSLOG: Final[tuple[int, ...]] = (FATAL, FATAL, FATAL, ERROR, WARN, INFO, INFO, DEBUG)

_OTEL_FIELDS: Final = frozenset({"severitynumber", "severity_number"})
_PYTHON_FIELDS: Final = frozenset({"levelno"})
_LOGBACK_FIELDS: Final = frozenset({"level_value"})
_SYSLOG_FIELDS: Final = frozenset(
    {
        "priority",
        "syslog_severity",
        "syslog_severity_code",
        "severity_code",
        "syslog.severity",
        "log.syslog.severity.code",
    }
)

# A word at the head of a message, where nothing declares a level. Upper case alone is enough for the words that are
# no English words at the start of a sentence; the others need brackets or a colon ("Error handling is on" is no error).
_HEAD_WORDS: Final = (
    "trace|debug|info|information|notice|warn|warning|error|err|severe|fatal|critical|crit|alert|emerg|emergency|panic"
)
_HEAD_RE: Final = re.compile(
    r"[\s\W]{0,4}?(?:"
    r"(?P<upper>TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|SEVERE|FATAL|CRITICAL|EMERG|EMERGENCY|PANIC)(?=[\s:\])>|,-]|$)"
    rf"|[\[(<](?P<bracket>(?i:{_HEAD_WORDS}|note|fine|finer|finest|config|verbose|log))[\])>]"
    rf"|(?P<colon>(?i:{_HEAD_WORDS}|note|fine|finer|finest|config|log)):(?![/\w])"
    r"|(?P<python>DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:"
    r"|(?P<letter>[VDIWEFA])/[\w.$-]{1,64}\s*\(\s*\d+\):"
    r")"
)


def normalise(value: object, field: str = "level") -> int:
    """Gives the index in `LEVELS` of what a field declares; 0 where it declares nothing known.

    Args:
        value: the field's value: a word in any case, a number, or a number as text.
        field: the field's name, since 30 is INFO to pino and bunyan (`level`) and WARNING to Python (`levelno`),
            and 4 is WARNING to syslog (`PRIORITY`) and TRACE4 to OpenTelemetry (`severityNumber`).

    >>> [LEVELS[normalise(v)] for v in ("Information", "WARNING", 30, 3, "crit", "audit")]
    ['INFO', 'WARN', 'INFO', 'ERROR', 'FATAL', '']
    >>> LEVELS[normalise(9, "severityNumber")], LEVELS[normalise("4", "PRIORITY")], LEVELS[normalise(30, "levelno")]
    ('INFO', 'WARN', 'WARN')
    """
    if isinstance(value, str):
        word = value.strip().strip("[]<>():").lower()
        code = WORDS.get(word)
        if code is not None:
            return code
        if word.isascii() and word.isdigit() and len(word) <= 6:
            return _number(int(word), field.lower())
        # OpenTelemetry writes INFO2, zerolog and others write "level3"; only the trailing digit of a known word goes.
        return WORDS.get(word[:-1], NONE) if len(word) > 3 and word[-1:] in "1234" else NONE
    if isinstance(value, bool):
        return NONE
    if isinstance(value, int):
        return _number(value, field.lower())
    if isinstance(value, float) and math.isfinite(value):
        return _number(int(value), field.lower())
    return NONE


def _number(value: int, field: str) -> int:
    if value < 0:
        return NONE
    if field in _OTEL_FIELDS:
        return (value + 3) // 4 if 1 <= value <= 24 else NONE
    if field in _PYTHON_FIELDS:
        return _steps(value // 10, (NONE, DEBUG, INFO, WARN, ERROR, FATAL))
    if field in _LOGBACK_FIELDS:  # logback: 5000, 10000, 20000, 30000, 40000
        return TRACE if 0 < value < 10_000 else _steps(value // 10_000, (NONE, DEBUG, INFO, WARN, ERROR, FATAL))
    if 0 <= value <= 7:  # syslog and GELF
        return SYSLOG[value]
    if field in _SYSLOG_FIELDS:
        return NONE
    if field.startswith("severity") and value <= 24:
        return (value + 3) // 4
    return _steps(value // 10, (NONE, TRACE, DEBUG, INFO, WARN, ERROR, FATAL))  # pino, bunyan


def _steps(step: int, codes: tuple[int, ...]) -> int:
    return codes[min(step, len(codes) - 1)] if step > 0 else NONE


def from_head(text: str) -> int:
    """Gives the level written at the head of a message, 0 if none; never one found further inside.

    >>> [LEVELS[from_head(t)] for t in ("ERROR disk full", "[warn] slow", "Error handling is on", "no error: ok")]
    ['ERROR', 'WARN', '', '']
    """
    match = _HEAD_RE.match(text)
    if match is None or match.lastgroup is None:
        return NONE
    return WORDS[match[match.lastgroup].lower()]
