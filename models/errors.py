"""The error tree: what each error means, and who answers it.

```
DriftwoodError              a message for the user: what happened, what to do next
├── SettingsError           a setting is missing or wrong; raised before the job is submitted
├── DataSetError            a file or folder is not the data set it should be
├── ArtefactError           a model artefact is missing, damaged or of another version
├── SinkError               Loki, Kafka, Redis or Elastic refused for good; the job restarts from its checkpoint
├── RejectRatioError        too many records are no records; the job stops
└── RecordError             one bad record; it becomes a dead letter and nothing else happens
```
"""

from __future__ import annotations


class DriftwoodError(Exception):
    """An error whose message is meant for the user: what happened and what to do next."""


class SettingsError(DriftwoodError):
    """A setting is missing or wrong."""


class DataSetError(DriftwoodError):
    """A file or folder is not the data set it should be."""


class ArtefactError(DriftwoodError):
    """A model artefact is missing, damaged or of another version."""


class SinkError(DriftwoodError):
    """A sink refused for good, after its bounded retries."""


class RejectRatioError(DriftwoodError):
    """More records were rejected than the settings allow."""


class RecordError(DriftwoodError):
    """One record cannot be read; it becomes a dead letter.

    Args:
        reason: a code for metrics and the dead letter, such as `not_json`.
        stage: the step that refused it, such as `parse`.
        detail: one sentence for a person, free of the record's own bytes.
    """

    def __init__(self, reason: str, stage: str, detail: str) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.reason = reason
        self.stage = stage
        self.detail = detail
