"""Users of the sample, for ever: mostly readers, some writers, and now and then the fault that Driftwood should find.

`python users.py http://localhost:8000 [requests a second] [seconds between faults, 0 for none]`
"""

import random
import sys
import time
import urllib.error
import urllib.request

TAGS = ("beamspot", "alignment", "gain", "pedestal", "noise", "field")


def paths(rng: random.Random, run: int):
    """What one user asks for, one request after the other."""
    tag = rng.choice(TAGS)
    if rng.random() < 0.2:
        yield f"/tags/{tag}/{run}/new"
    for _ in range(rng.randint(1, 4)):
        yield f"/tags/{tag}/{run + rng.randint(0, 9)}"


def ask(url: str) -> None:
    """One request; whatever the answer, it is in the sample's log."""
    try:
        urllib.request.urlopen(url, timeout=10).read()
    except urllib.error.HTTPError as error:
        error.read()
    except OSError:
        time.sleep(1)


def main(base: str, rate: float = 5, fault_s: float = 900) -> None:
    """Asks until it is stopped."""
    rng = random.Random()
    run, next_fault = int(time.time()) % 1_000_000, time.monotonic() + fault_s
    while True:
        for path in paths(rng, run):
            ask(base + path)
            time.sleep(rng.expovariate(rate))
        run += 1
        if fault_s and time.monotonic() > next_fault:
            ask(base + "/fault")
            next_fault += fault_s


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
