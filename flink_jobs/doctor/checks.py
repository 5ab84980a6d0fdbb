"""One judgement of a deployment.

```
settings ── looks.py ──→ what each part says of itself ── topics.py, parts.py ──→ Check*: name, ok|warn|fail|skipped, what, next
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

Verdict = Literal["ok", "warn", "fail", "skipped"]

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One judgement.

    Attributes:
        name: of the check, always the same.
        verdict: `fail`: the deployment does not do its work; `warn`: it does, and something should be looked after.
        what: what was found, one sentence.
        step: what to do next; empty where there is nothing to do.
    """

    name: str
    verdict: Verdict
    what: str
    step: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON; the next step is `next`."""
        found = asdict(self)
        return {"name": found["name"], "verdict": found["verdict"], "what": found["what"], "next": found["step"]}


def is_well(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.verdict != "fail" for check in checks)


def some(names: Sequence[str]) -> str:
    """The first of many names, for a sentence.

    >>> some(["a", "b"]), some([*"abcdefgh"])
    ('a, b', 'a, b, c, d, e and 3 more')
    """
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def many(count: int, noun: str) -> str:
    """A number of things, for a sentence.

    >>> many(1, "service"), many(1_200, "service")
    ('1 service', '1,200 services')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ago(ms: float) -> str:
    """A span of time, for people.

    >>> ago(90_000), ago(7_200_000), ago(3 * 86_400_000)
    ('90 s', '2 h', '3 days')
    """
    seconds = max(0, round(ms / 1000))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
