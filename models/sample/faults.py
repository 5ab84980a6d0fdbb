"""The faults the shop can have: seven kinds, five of them in INFO lines whose templates are all ordinary.

| kind     | what happens                                   | level | new template |
|----------|------------------------------------------------|-------|--------------|
| order    | two steps of a service swapped                 | INFO  | no           |
| missing  | a step left out (paid order never captured)    | INFO  | no           |
| repeated | a step done again and again (charged twice)    | INFO  | no           |
| value    | a number far off (amount, latency, count)      | INFO  | no           |
| rate     | a background line in a burst, or gone silent   | INFO  | no           |
| error    | a stack trace never seen, the rest cut off     | ERROR | yes          |
| timeout  | a call that gives up, the rest cut off         | ERROR | yes          |
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from models.sample.flows import Step, run_flow
from models.sample.services import SERVICES

KINDS: tuple[str, ...] = ("order", "missing", "repeated", "value", "rate", "error", "timeout")
INFO_KINDS: frozenset[str] = frozenset({"order", "missing", "repeated", "value", "rate"})
REQUEST_KINDS: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "rate")


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault, as the generator planned it.

    `session` is None for a fault of background lines (kind rate). `start_ms` and `end_ms` are set for those only: a
    silence has no line of its own.
    """

    number: int
    kind: str
    service: str
    session: str | None
    note: str
    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a flow where a kind of fault can strike: the steps it needs, and what it does, in words."""

    kind: str
    flow: str
    service: str
    steps: tuple[str, ...]
    note: str
    text: str = ""
    factor: float = 1.0


_JAVA = (
    "Unhandled exception while {what}: java.lang.IllegalStateException: {why}\n"
    "\tat com.shop.{pkg}.{cls}.{method}({cls}.java:{line})\n"
    "\tat com.shop.{pkg}.Worker.run(Worker.java:88)\n"
    "\tat java.base/java.lang.Thread.run(Thread.java:1583)"
)
_PYTHON = (
    "Traceback (most recent call last):\n"
    '  File "/srv/catalogue/query.py", line {line}, in rows\n'
    "    return cursor.fetchall()\n"
    "psycopg.errors.SerializationFailure: could not serialize access due to concurrent update"
)

SITES: tuple[Site, ...] = (
    Site("order", "checkout", "payments", ("authorised", "captured"), "captured before the gateway authorised it"),
    Site("order", "checkout", "orders", ("accepted", "confirmed"), "confirmed before its payment was accepted"),
    Site("order", "checkout", "stock", ("holding", "picked"), "picked from the shelf before units were held"),
    Site("order", "product", "auth", ("verified", "scoped"), "scopes granted before the signature was verified"),
    Site("order", "checkout", "mail", ("connected", "delivered"), "mail delivered before the relay was connected"),
    Site("order", "add", "cart", ("totals", "saved"), "cart saved before its totals were computed"),
    Site("missing", "checkout", "payments", ("captured",), "order confirmed, money never captured"),
    Site("missing", "checkout", "orders", ("reserved",), "payment requested without stock reserved"),
    Site("missing", "add", "cart", ("price",), "product added without its price confirmed"),
    Site("missing", "search", "auth", ("verified",), "credentials accepted without their signature verified"),
    Site("missing", "checkout", "stock", ("moved",), "shelf picked, no stock movement written"),
    Site("missing", "search", "catalogue", ("priced",), "products answered without prices"),
    Site("repeated", "checkout", "payments", ("captured",), "the same payment captured several times"),
    Site("repeated", "checkout", "mail", ("delivered",), "the same mail delivered several times"),
    Site("repeated", "checkout", "orders", ("published",), "the same order published several times"),
    Site("repeated", "login", "auth", ("compared",), "password hash compared again and again in one login"),
    Site("repeated", "add", "stock", ("counting",), "units counted again and again"),
    Site("value", "checkout", "payments", ("captured", "total"), "captured a hundred times the amount", factor=100.0),
    Site("value", "product", "front", ("responded", "ms"), "answered in minutes, not milliseconds", factor=400.0),
    Site("value", "login", "auth", ("issued", "s"), "session valid for years, not an hour", factor=30_000.0),
    Site("value", "add", "stock", ("found", "n"), "a thousand times the units there are", factor=1_000.0),
    Site("value", "search", "catalogue", ("answered", "bytes"), "an answer of gigabytes", factor=100_000.0),
    Site(
        "error",
        "checkout",
        "orders",
        ("requested",),
        "unhandled exception in the order service",
        _JAVA.format(
            what="writing the order",
            why="event store is read only",
            pkg="orders",
            cls="EventLog",
            method="append",
            line=214,
        ),
    ),
    Site("error", "search", "catalogue", ("queried",), "database refuses the query", _PYTHON.format(line=131)),
    Site(
        "error",
        "add",
        "cart",
        ("added",),
        "unhandled exception in the cart service",
        _JAVA.format(
            what="saving items", why="cart is owned by another node", pkg="cart", cls="CartStore", method="put", line=77
        ),
    ),
    Site(
        "timeout",
        "checkout",
        "payments",
        ("authorising",),
        "the gateway never answers",
        "No answer of gateway gw-{a} within {b} ms, giving up",
    ),
    Site(
        "timeout",
        "product",
        "catalogue",
        ("miss",),
        "the database never answers",
        "Pool exhausted: waited {b} ms for one of {a} connections",
    ),
    Site(
        "timeout",
        "checkout",
        "mail",
        ("body",),
        "the relay never answers",
        "Deadline passed after {b} ms while dialing relay mx{a}.relay.example",
    ),
)


def faulty_request(rng: Random, kind: str, site_number: int, fault: int) -> tuple[list[Step], Site]:
    """The steps of a request struck by a fault of `kind`, with the steps that show it marked by `fault`.

    The flow is drawn again until it holds the steps the site needs (a refused card has nothing to capture).
    """
    sites = [site for site in SITES if site.kind == kind]
    site = sites[site_number % len(sites)]
    needed = site.steps[:1] if kind == "value" else site.steps
    while True:
        steps = run_flow(rng, site.flow)
        found = [_find(steps, site.service, name) for name in needed]
        if all(at is not None for at in found) and _levels_allow(steps, kind):
            break
    _STRIKES[kind](rng, steps, site, [at for at in found if at is not None], fault)
    return steps, site


def _levels_allow(steps: list[Step], kind: str) -> bool:
    """Requests of an INFO-only kind hold no WARN of the normal sort, so that levels alone find none of them."""
    return kind not in INFO_KINDS or all(step.level == "INFO" for step in steps)


def _find(steps: list[Step], service: str, name: str) -> int | None:
    return next((at for at, step in enumerate(steps) if step.service == service and step.name == name), None)


def _swap(rng: Random, steps: list[Step], site: Site, at: list[int], fault: int) -> None:
    first, second = at
    steps[first], steps[second] = steps[second], steps[first]
    steps[first].delay_ms, steps[second].delay_ms = steps[second].delay_ms, steps[first].delay_ms
    steps[first].fault = steps[second].fault = fault


def _omit(rng: Random, steps: list[Step], site: Site, at: list[int], fault: int) -> None:
    """Takes the step out; the service's next line is the one that shows it."""
    gone = steps.pop(at[0])
    after = next((step for step in steps[at[0] :] if step.service == site.service), None)
    if after is not None:
        after.fault = fault
        after.delay_ms += gone.delay_ms


def _repeat(rng: Random, steps: list[Step], site: Site, at: list[int], fault: int) -> None:
    first = steps[at[0]]
    spec = SERVICES[site.service].steps[first.name]
    for _ in range(rng.randint(2, 5)):
        values = {**first.values, **{key: rng.randint(low, high) for key, (low, high) in spec.draws.items()}}
        again = Step(
            first.service, first.name, spec.level, spec.text.format_map(values), values, rng.randint(20, 400), fault
        )
        steps.insert(at[0] + 1, again)


def _distort(rng: Random, steps: list[Step], site: Site, at: list[int], fault: int) -> None:
    step = steps[at[0]]
    key = site.steps[1]
    number = float(str(step.values[key])) * site.factor * rng.uniform(0.8, 1.3)
    step.values[key] = f"{number:.2f}" if "." in str(step.values[key]) else int(number)
    step.message = SERVICES[step.service].steps[step.name].text.format_map(step.values)
    step.fault = fault


def _break(rng: Random, steps: list[Step], site: Site, at: list[int], fault: int) -> None:
    """Puts an ERROR line never seen after the step; the request then ends, with a 5xx unless it was answered already."""
    answered = any(step.name == "responded" for step in steps[: at[0]])
    tail = [step for step in steps[at[0] + 1 :] if step.service == "front" and step.name in ("responded", "closed")]
    del steps[at[0] + 1 :]
    message = (
        site.text.format(a=rng.randint(1, 4), b=rng.randint(29_000, 31_000)) if site.kind == "timeout" else site.text
    )
    wait_ms = rng.randint(2_000, 6_000) if site.kind == "timeout" else rng.randint(2, 30)
    steps.append(Step(site.service, site.kind, "ERROR", message, {}, wait_ms, fault))
    if answered:
        return
    for step in tail:
        if step.name == "responded":
            step.values["status"] = 504 if site.kind == "timeout" else 500
            step.message = SERVICES["front"].steps["responded"].text.format_map(step.values)
        steps.append(step)


_STRIKES = {
    "order": _swap,
    "missing": _omit,
    "repeated": _repeat,
    "value": _distort,
    "error": _break,
    "timeout": _break,
}
