"""Every state descriptor of the job: name and type. Renaming one is a migration."""

from __future__ import annotations

from pyflink.common import Types
from pyflink.datastream.state import MapStateDescriptor

from udfs.tags import BYTES

#: seq of a template in its shard → its structure (models/templates.py).
TEMPLATES = MapStateDescriptor("templates", Types.STRING(), BYTES)
#: position → journal entry (models/shard.py); the first is a snapshot once there is one.
JOURNAL = MapStateDescriptor("journal", Types.LONG(), BYTES)
