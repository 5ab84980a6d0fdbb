"""The control topic's operator: raw messages in, a command for each shard that it concerns out, in the shape of a packed batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyflink.common import Row
from pyflink.datastream import ProcessFunction

from models.control import EVERY, read_command
from models.delivery import dead_letter
from models.errors import RecordError
from models.packing import shard_of
from udfs.tags import REJECTS


class ReadCommandsFn(ProcessFunction):
    """Sends each command to the shard that holds its service, and one for all services to every shard."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process_element(self, value: Row, ctx: ProcessFunction.Context) -> Iterator[Any]:
        """One message: value, topic, partition, offset; what is no command becomes a dead letter."""
        message, topic, partition, offset = value
        try:
            command = read_command(message)
        except RecordError as error:
            origin = {"topic": topic, "partition": partition, "offset": offset, "index": 0}
            yield (
                REJECTS,
                Row(topic.encode(), dead_letter(error.reason, error.stage, error.detail, origin, message or b"")),
            )
            return
        every = range(self._shards)
        for shard in every if command.service == EVERY else [shard_of(command.service, self._shards)]:
            yield Row(str(shard), command.to_bytes())
