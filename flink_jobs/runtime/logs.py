"""Where the log messages of commands go: the terminal."""

from __future__ import annotations

import sys

from loguru import logger


def to_terminal(level: str = "INFO", *, as_json: bool = False) -> None:
    """Messages to stderr, for a person or as JSON lines; without the values of variables, which may be secrets."""
    logger.remove()
    logger.add(
        sys.stderr,
        level=level,
        format="<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}",
        serialize=as_json,
        backtrace=False,
        diagnose=False,
    )
