"""Every state descriptor of the job: name and type. Renaming one is a migration."""

from __future__ import annotations

from pyflink.common import Types
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs.tags import BYTES

#: seq of a template in its shard → its structure (models/templates.py).
TEMPLATES = MapStateDescriptor("templates", Types.STRING(), BYTES)
#: position → journal entry (models/shard.py); the first is a snapshot once there is one.
JOURNAL = MapStateDescriptor("journal", Types.LONG(), BYTES)
#: path → position in the files it has stood for (models/tail.py), under the one key of a followed source.
POSITIONS = MapStateDescriptor("positions", Types.STRING(), BYTES)
#: id of a command → JSON [service, message] of a line that a person called normal, under the one key of the second opinion.
ACCEPTED = MapStateDescriptor("accepted", Types.STRING(), BYTES)
#: Row of the correlator's tables (models/alerts/table.py) → its bytes, under its one key.
INCIDENTS = MapStateDescriptor("incidents", Types.STRING(), BYTES)
#: Length in bytes of a written file with all that was written up to a checkpoint, under the one key of a file.
LENGTH = ValueStateDescriptor("length", Types.LONG())
