"""What one request does: its lines over the services, in order, with the variation that is normal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from models.sample.services import SERVICES, StepSpec

_TERMS = ("lamp", "chair", "kettle", "blanket", "mirror", "shelf", "carpet", "candle", "basket", "clock")
_NAMES = ("ada", "bo", "cleo", "dan", "edda", "finn", "gus", "hana", "ivo", "jun", "kai", "lena", "mo", "nils", "ola")


@dataclass(slots=True)
class Step:
    """One line to be: who says what, and how long after the step before it.

    Units:
        delay_ms: milliseconds after the step before it in the request.
    """

    service: str
    name: str
    level: str
    message: str
    values: dict[str, object]
    delay_ms: int
    fault: int | None = None


@dataclass(slots=True)
class Script:
    """Collects a request's steps; draws what the request does not give."""

    rng: Random
    context: dict[str, object]
    steps: list[Step] = field(default_factory=list)

    def say(self, service: str, name: str, wait_ms: tuple[int, int] = (1, 25), **values: object) -> None:
        """Adds a step of `service` after a wait drawn from `wait_ms`."""
        self.steps.append(write(self.rng, service, name, {**self.context, **values}, self.rng.randint(*wait_ms)))

    def chance(self, ratio: float) -> bool:
        """True in `ratio` of the calls."""
        return self.rng.random() < ratio


def write(rng: Random, service: str, name: str, context: dict[str, object], delay_ms: int) -> Step:
    """A step with its message written out: numbers from the step's ranges, the rest from the context."""
    spec: StepSpec = SERVICES[service].steps[name]
    values = {**context, **{key: rng.randint(low, high) for key, (low, high) in spec.draws.items()}}
    return Step(service, name, spec.level, spec.text.format_map(values), values, delay_ms)


def new_context(rng: Random) -> dict[str, object]:
    """The things one request is about: user, product, cart, order, payment, amounts, addresses."""
    cents = rng.randint(500, 25_000)
    name = rng.choice(_NAMES)
    user = rng.randint(1_000, 9_999)
    return {
        "user": f"u{user}",
        "visitor": f"v{rng.randrange(16**8):08x}",
        "email": f"{name}.{user}@mail.example",
        "sku": f"sku-{rng.randint(1_000, 9_999)}",
        "key": f"p:{rng.randrange(16**6):06x}",
        "term": rng.choice(_TERMS),
        "cart": rng.randint(10_000, 99_999),
        "order": rng.randint(1_000_000, 9_999_999),
        "payment": f"pay-{rng.randint(100_000, 999_999)}",
        "price": f"{cents / 100:.2f}",
        "total": f"{cents * rng.randint(1, 3) / 100:.2f}",
        "ip": f"10.{rng.randint(0, 40)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}",
        "gateway": f"gw-{rng.randint(1, 3)}",
        "relay": f"mx{rng.randint(1, 4)}.relay.example:25",
        "status": 200,
    }


def _head(script: Script, method: str, path: str) -> None:
    script.say("front", "received", method=method, path=path)


def _tail(script: Script, status: int = 200) -> None:
    script.say("front", "rendered")
    if script.chance(0.06):
        script.say("front", "slow")
    script.say("front", "responded", status=status)
    script.say("front", "closed")


def _route(script: Script, upstream: str) -> None:
    script.say("front", "routed", upstream=upstream, attempt=1)
    if script.chance(0.05):
        script.say("front", "busy", upstream=upstream)
        script.say("front", "routed", wait_ms=(50, 200), upstream=upstream, attempt=2)


def _validate(script: Script) -> None:
    script.say("auth", "validating")
    script.say("auth", "verified")
    if script.chance(0.75):
        script.say("auth", "cached")
    else:
        script.say("auth", "uncached")
        script.say("auth", "row")
    script.say("auth", "scoped")
    script.say("auth", "audited")
    script.say("front", "accepted")
    if script.chance(0.3):
        script.say("front", "experiment")


def _lookup(script: Script) -> None:
    if script.chance(0.65):
        script.say("catalogue", "hit")
    else:
        script.say("catalogue", "miss")
        script.say("catalogue", "queried", wait_ms=(4, 60))
        if script.chance(0.12):
            script.say("catalogue", "slow")
        script.say("catalogue", "stored")
    script.say("catalogue", "priced")


def _count(script: Script, hold: bool) -> None:
    script.say("stock", "counting")
    script.say("stock", "found")
    if hold:
        script.say("stock", "holding")
        script.say("stock", "picked")
        if script.chance(0.08):
            script.say("stock", "low")
        script.say("stock", "moved")
    script.say("stock", "unlocked")


def search(script: Script) -> None:
    """A visitor looks for products."""
    _head(script, "GET", f"/api/products?page={script.rng.randint(1, 9)}")
    if script.chance(0.5):
        _validate(script)
    else:
        script.say("front", "anonymous")
    _route(script, "catalogue")
    script.say("catalogue", "searching")
    _lookup(script)
    script.say("catalogue", "answered")
    _tail(script)


def product(script: Script) -> None:
    """A visitor opens one product."""
    _head(script, "GET", f"/api/products/{script.context['sku']}")
    if script.chance(0.5):
        _validate(script)
    else:
        script.say("front", "anonymous")
    _route(script, "catalogue")
    script.say("catalogue", "opening")
    _lookup(script)
    if script.chance(0.7):
        script.say("catalogue", "recommended")
    script.say("catalogue", "answered")
    _tail(script)


def login(script: Script) -> None:
    """A user signs in; one in ten mistypes once."""
    _head(script, "POST", "/api/login")
    _route(script, "auth")
    script.say("auth", "login")
    script.say("auth", "compared", wait_ms=(40, 90))
    if script.chance(0.1):
        script.say("auth", "mistyped")
        script.say("auth", "compared", wait_ms=(900, 4_000))
    script.say("auth", "second", wait_ms=(100, 900))
    script.say("auth", "issued")
    script.say("auth", "audited")
    _tail(script)


def add(script: Script) -> None:
    """A user puts a product into the cart; price and availability are confirmed in either order."""
    _head(script, "POST", f"/api/cart/{script.context['cart']}/items")
    _validate(script)
    _route(script, "cart")
    script.say("cart", "opened")
    script.say("cart", "added")
    _count(script, hold=False)
    first, second = ("price", "available") if script.chance(0.5) else ("available", "price")
    script.say("cart", first)
    script.say("cart", second)
    script.say("cart", "totals")
    if script.chance(0.06):
        script.say("cart", "lock")
    script.say("cart", "saved")
    _tail(script)


def checkout(script: Script) -> None:
    """A user buys the cart; one card in fifteen is refused, which is normal."""
    _head(script, "POST", f"/api/cart/{script.context['cart']}/checkout")
    _validate(script)
    _route(script, "orders")
    script.say("cart", "opened")
    script.say("cart", "frozen")
    if script.chance(0.25):
        script.say("cart", "voucher")
    script.say("cart", "totals")
    script.say("orders", "drafted")
    script.say("orders", "address")
    if script.chance(0.08):
        script.say("orders", "manual")
    _count(script, hold=True)
    script.say("orders", "reserved")
    script.say("orders", "requested")
    script.say("payments", "opened")
    script.say("payments", "risk")
    script.say("payments", "authorising")
    if script.chance(0.08):
        script.say("payments", "gateway_busy", wait_ms=(80, 300))
        script.say("payments", "authorising", wait_ms=(80, 300))
    if script.chance(1 / 15):
        script.say("payments", "refused", wait_ms=(80, 400))
        script.say("orders", "declined")
        script.say("orders", "released")
        script.say("orders", "unpaid")
        _tail(script, 402)
        return
    script.say("payments", "authorised", wait_ms=(80, 400))
    script.say("payments", "captured", wait_ms=(20, 90))
    script.say("payments", "booked")
    script.say("payments", "receipt")
    script.say("orders", "accepted")
    script.say("orders", "confirmed")
    script.say("orders", "published")
    script.say("orders", "scheduled")
    script.say("cart", "emptied")
    script.say("cart", "saved")
    _tail(script)
    script.say("mail", "queued", wait_ms=(50, 400))
    script.say("mail", "addressed")
    script.say("mail", "body")
    script.say("mail", "connected", wait_ms=(8, 60))
    if script.chance(0.08):
        script.say("mail", "greylisted")
        script.say("mail", "connected", wait_ms=(1_000, 4_000))
    script.say("mail", "delivered", wait_ms=(20, 90))
    script.say("mail", "recorded")


FLOWS: dict[str, tuple[float, Callable[[Script], None]]] = {
    "search": (0.22, search),
    "product": (0.22, product),
    "login": (0.12, login),
    "add": (0.20, add),
    "checkout": (0.24, checkout),
}
"""Share of the requests and the flow."""


def run_flow(rng: Random, name: str) -> list[Step]:
    """The steps of one request of the named flow.

    >>> [step.name for step in run_flow(Random(3), "login") if step.service == "auth"]
    ['login', 'compared', 'second', 'issued', 'audited']
    """
    script = Script(rng, new_context(rng))
    FLOWS[name][1](script)
    return script.steps
