"""Training buffers as the job fills them, for tests: entries of the streams, and the template texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from models.artefact import Artefact
from models.batch import BatchParams
from models.datasets import to_batches
from models.learning.buffered import BufferedLines, gather
from models.packing import unpack
from models.shard import ShardParams
from models.training_buffer import SequenceBatch, sequences

#: The fields of one stream entry, as redis-py gives them back.
Entry = dict[bytes, bytes]


def sequence_batches(
    lines: Iterable[bytes],
    models: Mapping[str, Artefact] | None = None,
    size: int = 200,
    params: ShardParams | None = None,
    topic: str = "logs",
) -> Iterator[SequenceBatch]:
    """What the job's core sends to the buffer for these lines."""
    batcher = BatchParams(shards=1).build()
    shard = (params or ShardParams(has_sequences=True)).build(models or {})
    for raw in to_batches(lines, topic=topic, size=size):
        for _, blob in batcher.step(raw):
            sent = shard.step(unpack(blob)).sequences
            assert sent is not None
            yield sent


def entries(batches: Iterable[SequenceBatch], service: str = "cart") -> tuple[list[Entry], dict[int, str]]:
    """The entries of a service's stream, and its hash of texts."""
    stream: list[Entry] = []
    texts: dict[int, str] = {}
    for batch in batches:
        stream += [
            {
                name.encode(): value if isinstance(value, bytes) else str(value).encode()
                for name, value in one.fields().items()
            }
            for one in batch.sequences
            if one.service == service
        ]
        texts.update({number: text for name, number, text in batch.templates if name == service})
    return stream, texts


def buffered(lines: Iterable[bytes], service: str = "cart", size: int = 200) -> tuple[BufferedLines, dict[int, str]]:
    """A service's buffer after these lines of a job without model."""
    stream, texts = entries(sequence_batches(lines, size=size), service)
    return gather(service, sequences(service, stream)), texts
