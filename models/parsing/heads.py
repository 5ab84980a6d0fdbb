"""What stands before the content of a plain line: time, level, process, host. It goes to fields, the rest is the message.

Read here: syslog (RFC 3164 with and without priority, RFC 5424), CRI, klog and glog, Redis, access logs, logfmt, and
any line that begins with a time, perhaps followed by a level. A line without such a head stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from models.parsing.levels import NONE, SYSLOG, WORDS, normalise
from models.parsing.timestamps import Clock, field_time, parse_time

_MONTH: Final = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
# Rust regex: every text that `read_head` or the JSON reader may have something to do with. Plain classes and no counted
# repetition of \S or \w: with those it costs 2 µs a line, so 0.1.
PREFILTER: Final = (
    r"^[ \t\n]*(?:\{|<[0-9]|\[?\(?(?:[0-9]{4}[-/.][0-9]{2}[-/.][0-9]{2}|[0-9]{8}[T _-][0-9]|[0-9]{6} [0-9]{2}:?[0-9]"
    r"|[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{2}|[0-9]{2}[-.][0-9]{2} [0-9]{1,2}[:.]|[0-9]{2}:[0-9]{2}:[0-9]{2}"
    rf"|[0-9]{{10}}(?:[.,: ]|[0-9]{{3}})|[0-9]{{1,2}}[ /-]{_MONTH}|{_MONTH}[a-z]* +[0-9]|{_DAY}[a-z]*,? +[A-Z0-9])"
    r"|[IWEF][0-9]{4} [0-9]{2}:|[0-9]+:[XCSM] [0-9]|[A-Za-z_@][A-Za-z0-9_.@/-]*=[^ ]|[^ ]+ [^ ]+ [^ ]+ \[[0-9]{2}/)"
)

_CRI: Final = re.compile(r"(\d{4}-\d\d-\d\dT\S{8,30}) (?:stdout|stderr) [FP](?::\S{0,16})? ?")
_RFC5424: Final = re.compile(
    r"<(?P<pri>\d{1,3})>\d{1,2} (?P<time>\S{1,40}) (?P<host>\S{1,255}) (?P<app>\S{1,48}) \S{1,128} \S{1,32} "
    r"(?P<sd>-|(?:\[[^\]\[\"\\]{0,512}(?:\"(?:[^\"\\]|\\.){0,4096}\"[^\]\[\"\\]{0,512}){0,64}\]){1,16})(?: |$)\ufeff?"
)
_PRI: Final = re.compile(r"<(\d{1,3})>\s?")
_TAG: Final = re.compile(
    r" (?P<host>[\w.:-]{1,255}) (?P<tag>[A-Za-z0-9_][\w./()@ -]{0,63}?)(?:\[(?P<pid>[\w.-]{1,32})\])?:(?: |$)"
)
_TAG_ONLY: Final = re.compile(r" (?P<tag>[A-Za-z0-9_][\w./@-]{0,63})(?:\[(?P<pid>[\w.-]{1,32})\])?: ")
_KLOG: Final = re.compile(r"([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?) +\d+ ")
_REDIS: Final = re.compile(r"\d{1,7}:[XCSM] ")
_REDIS_LEVELS: Final = {".": "DEBUG", "-": "DEBUG", "*": "INFO", "#": "WARN"}
_ACCESS: Final = re.compile(r"\S{1,64} \S{1,64} \S{1,64} \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] ")
_PAIR: Final = re.compile(
    r"\s*([A-Za-z_@][\w.@/-]{0,63})=(\"(?:[^\"\\]|\\.)*\"|[^\s\"]*)(?=\s|$)|\s*([^\s=\"]{1,64})(?=\s|$)"
)
_EPOCH: Final = re.compile(r"\d{10,19}$")

# After a time: some of process, thread, logger in brackets or before " - "; then a level. Words that begin sentences
# ("error while reading") count in capitals or between delimiters only.
_SURE: Final = "trace|trc|debug|dbg|info|inf|information|warn|wrn|warning"
_MAYBE: Final = "verbose|notice|note|log|error|err|severe|fatal|ftl|critical|crit|alert|emerg|emergency|panic|fine|finer|finest|config|success"
_LEVEL: Final = re.compile(
    r"[\s|,;:\])-]{0,8}"
    r"(?:(?:\[[^\[\]\n]{0,64}\]|\([^()\n]{0,64}\)|\{[^{}\n]{0,64}\}|\d{1,10}(?:#\d{1,10})?:?(?=[\s|])|[\w.$/:-]{1,80} -|UTC)[\s|,:-]{1,4}){0,5}?"
    r"(?:"
    rf"[\[(<](?:[\w.]{{1,32}}:)?\s?(?P<bracket>(?i:{_SURE}|{_MAYBE})|[TDIWEFCN])\s?[\])>]"
    rf"|(?P<sure>(?i:{_SURE}))(?=[\s:|,\[\-(/]|$)"
    rf"|(?P<upper>{_MAYBE.upper()})(?=[\s:|,\[\-(/]|$)"
    rf"|(?P<maybe>(?i:{_MAYBE}))(?=[:|,\t]|\s{{2}})"
    r"|(?<=\s)(?P<letter>[VDIWEFA])\d?(?= +[A-Z][\w.$*-]*[ :])"
    r")(?:/\w{1,32}\])?[\s:|,\])-]{0,4}(?:\d{1,10}(?:#\d{1,10}: | -{2,3} ))?"
)
_AFTER_TIME: Final = re.compile(r"[\s|,;:\])]{0,8}(?:- )?")
_MAX_PAIRS: Final = 512
_TEXT_KEYS: Final = ("msg", "message", "log", "body", "text", "event")
_TIME_KEYS: Final = ("time", "ts", "t", "timestamp", "date", "datetime", "@timestamp")
_LEVEL_KEYS: Final = ("level", "lvl", "severity", "loglevel", "levelname")


@dataclass(slots=True)
class Head:
    """What a line's head says, and the line without it.

    Units: time is milliseconds since 1970, UTC.
    """

    text: str
    time: int | None = None
    level: int = NONE
    host: str | None = None
    service: str | None = None
    session: str | None = None
    is_wrap: bool = False  # put there by a transport (syslog, CRI): the content may have a head of its own


def read_head(text: str, reference_ms: int, clock: Clock) -> Head | None:
    """Gives a plain line's head and content, None if the line has no head.

    >>> read_head("220115 14:23:45 ERROR disk full", 0, Clock())
    Head(text='disk full', time=1642256625000, level=5, host=None, service=None, session=None, is_wrap=False)
    """
    line = text.lstrip()
    first = line[:1]
    head: Head | None = None
    if first == "<":
        head = _syslog(line, reference_ms, clock)
    elif first in "IWEF" and (match := _KLOG.match(line)):
        found = parse_time(f"{match[2]}-{match[3]} {match[4]}", reference_ms, clock)
        if found is not None:
            head = Head(line[match.end() :], found[0], normalise(match[1]))
    elif match := _CRI.match(line):
        found = parse_time(match[1], reference_ms, clock)
        if found is not None:
            head = Head(line[match.end() :], found[0], is_wrap=True)
    elif match := _REDIS.match(line):
        found = parse_time(line, reference_ms, clock, match.end())
        if found is not None and line[found[1] + 1 : found[1] + 2] in _REDIS_LEVELS:
            mark = line[found[1] + 1 : found[1] + 2]
            head = Head(line[found[1] + 3 :], found[0], normalise(_REDIS_LEVELS[mark]))
    elif match := _ACCESS.match(line):
        found = parse_time(match[1], reference_ms, clock)
        head = None if found is None else Head(line, found[0])
    if head is None:
        head = _timed(line, reference_ms, clock) or _logfmt(line, reference_ms, clock)
    return head if head is not None and head.text.strip() else None


def _syslog(line: str, reference_ms: int, clock: Clock) -> Head | None:
    match = _RFC5424.match(line)
    if match and int(match["pri"]) < 192:
        found = parse_time(match["time"], reference_ms, clock)
        return Head(
            line[match.end() :],
            None if found is None else found[0],
            SYSLOG[int(match["pri"]) % 8],
            None if match["host"] == "-" else match["host"],
            None if match["app"] == "-" else match["app"],
            is_wrap=True,
        )
    match = _PRI.match(line)
    if match is None or int(match[1]) >= 192:
        return None
    level = SYSLOG[int(match[1]) % 8]
    found = parse_time(line, reference_ms, clock, match.end())
    if found is None:
        return Head(line[match.end() :], None, level, is_wrap=True)
    time, end = found
    if (tag := _TAG.match(line, end)) is not None:
        return Head(line[tag.end() :], time, level, tag["host"], tag["tag"], is_wrap=True)
    if (tag := _TAG_ONLY.match(line, end)) is not None:
        return Head(line[tag.end() :], time, level, None, tag["tag"], is_wrap=True)
    return Head(line[end:].lstrip(), time, level, is_wrap=True)


def _timed(line: str, reference_ms: int, clock: Clock) -> Head | None:
    start = 1 if line[:1] in "[(" else 0
    found = parse_time(line, reference_ms, clock, start)
    if found is None:
        return None
    time, end = found
    stamp = line[start:end]
    if not start and (stamp[:1].isalpha() or ("T" in stamp[:11] and stamp[-1:] not in "T" and stamp[10:11] == "T")):
        tag = _TAG.match(line, end)  # syslog as files have it: no priority, RFC 3164 or ISO time
        if (
            tag is not None
            and tag["host"].lower() not in WORDS
            and (stamp[:1].isalpha() or tag["pid"] or ":" not in tag["host"])
        ):
            head = Head(line[tag.end() :], time, NONE, tag["host"], tag["tag"], is_wrap=True)
            if (inner := _LEVEL.match(head.text)) is not None and inner["bracket"]:
                head.level = normalise(inner["bracket"])
            return head
    match = _LEVEL.match(line, end)
    if match is not None:
        word = match["bracket"] or match["sure"] or match["upper"] or match["maybe"] or match["letter"]
        return Head(line[match.end() :].lstrip(), time, normalise(word))
    if _EPOCH.match(stamp) and not start:
        return None  # a bare number at the start of a sentence is no time
    gap = _AFTER_TIME.match(line, end)
    after = end if gap is None else gap.end()
    if after == end and after < len(line):
        return None  # the time runs into a word: a file name, an identifier
    return Head(line[after:], time)


def _logfmt(line: str, reference_ms: int, clock: Clock) -> Head | None:
    """`level=info ts=2024-01-02T03:04:05Z msg="listening on" port=80`; without a text key the other pairs are the text."""
    pairs: dict[str, str] = {}
    rest: list[str] = []
    position, bare = 0, 0
    while position < len(line) and len(pairs) + bare < _MAX_PAIRS:
        match = _PAIR.match(line, position)
        if match is None:
            break
        position = match.end()
        if match[1] is None:
            bare += 1
            rest.append(match[3])
            if bare > len(pairs):
                return None
            continue
        value = match[2]
        if value[:1] == '"':
            value = value[1:-1].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        key = match[1].lower()
        pairs.setdefault(key, value)
        if key not in _TIME_KEYS and key not in _LEVEL_KEYS:
            rest.append(match[0].strip())
    if position < len(line) and line[position:].strip():
        if len(pairs) < _MAX_PAIRS:
            return None
        rest.append(line[position:].strip())
    text = next((pairs[key] for key in _TEXT_KEYS if pairs.get(key, "").strip()), None)
    level = next((code for key in _LEVEL_KEYS if key in pairs and (code := normalise(pairs[key], key))), NONE)
    if len(pairs) < 2 or (text is None and level == NONE):
        return None
    time = next(
        (t for key in _TIME_KEYS if key in pairs and (t := field_time(pairs[key], reference_ms, clock)) is not None),
        None,
    )
    service = next((pairs[k] for k in ("service", "service_name", "app", "service.name") if pairs.get(k)), None)
    session = next(
        (
            pairs[k]
            for k in ("session", "trace_id", "traceid", "request_id", "requestid", "req_id", "correlation_id")
            if pairs.get(k)
        ),
        None,
    )
    host = pairs.get("host") or pairs.get("hostname")
    return Head(text if text is not None else " ".join(rest), time, level, host, service, session)
