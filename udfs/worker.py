"""What every operator does first in a Python worker, once a process."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from loguru import logger

from udfs.orphans import end_with_taskmanager

if TYPE_CHECKING:
    from loguru import Message


@cache
def prepare_worker() -> None:
    """Log through Flink, end with the TaskManager, and keep torch to the one core that the slot has."""
    logger.remove()
    logger.add(_propagate, level="INFO", format="{message}", backtrace=False, diagnose=False)
    end_with_taskmanager()
    torch.set_num_threads(1)


def _propagate(message: Message) -> None:
    """Hand a message to standard logging, which Flink carries on; whatever goes to stderr, the worker reports as ERROR."""
    record = message.record
    logging.getLogger(record["name"] or "driftwood").log(record["level"].no, "%s", record["message"])
