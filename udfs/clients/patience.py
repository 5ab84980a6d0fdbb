"""The waits between the tries of one delivery, under one deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from models.delivery import RetryParams
from models.errors import DriftwoodError, SinkError


class Patience:
    """Waits as a retry plan says, and raises when there is no wait left.

    Args:
        params: the plan; its seed makes the jitter repeatable.
        target: who is waited for, in words for the error message.
        advice: what to do next, for the same.
        error: the kind of error to raise.
        clock: seconds, monotonic.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        params: RetryParams,
        target: str,
        advice: str,
        error: type[DriftwoodError] = SinkError,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._params = params
        self._target = target
        self._advice = advice
        self._error = error
        self._clock = clock
        self._sleep = sleep
        self._jitter = random.Random(params.seed)
        self._began = clock()
        self._tries = 0
        self.retried = 0  # over all deliveries, for the metrics

    def begin(self) -> None:
        """Starts the deadline of one delivery."""
        self._began = self._clock()
        self._tries = 0

    def went_through(self) -> None:
        """Notes that the target answers: the next trouble starts with a short wait again."""
        self._tries = 0

    @property
    def timeout_s(self) -> float:
        """The time that the next request may take.

        Raises:
            DriftwoodError: the deadline has passed.
        """
        left = self._params.deadline_s - (self._clock() - self._began)
        if left <= 0:
            raise self._gave_up("the requests took too long")
        return min(self._params.timeout_s, left)

    def wait(self, why: str, retry_after_s: float | None = None) -> None:
        """Waits before the next try.

        Raises:
            DriftwoodError: of the kind given, when the tries or the time are used up.
        """
        self._tries += 1
        self.retried += 1
        elapsed = self._clock() - self._began
        wait = self._params.wait_s(self._tries, self._jitter.random(), elapsed, retry_after_s)
        if wait is None:
            raise self._gave_up(why)
        self._sleep(wait)

    def _gave_up(self, why: str) -> DriftwoodError:
        elapsed = self._clock() - self._began
        return self._error(
            f"{self._target}: gave up after {max(1, self._tries)} tries in {elapsed:.0f} s (last: {why}). {self._advice}"
        )
