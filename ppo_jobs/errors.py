"""Everything that the record of jobs raises for a caller to answer.

JobsError
├── NotFound
│   ├── JobNotFound
│   ├── CheckpointNotFound
│   ├── EvaluationNotFound
│   ├── GroupNotFound
│   ├── AttemptNotFound
│   ├── ApiKeyNotFound
│   └── ArtifactNotFound
├── InvalidTransition
├── JobNotTerminal
├── CheckpointInUse
├── CheckpointMissing
├── LeaseLost
├── IdempotencyMismatch
├── DatabaseUnavailable
│   ├── DatabaseFull
│   └── DatabaseReadOnly
├── SchemaUnknown
├── InvalidArtifactName
├── ArtifactCorrupt
├── StorageFull
├── SettingsInvalid
└── DataDirectoryUnusable
"""

from pathlib import Path

from ppo_jobs.states import JobStatus


class JobsError(Exception):
    """The record refuses, or cannot be reached."""


class NotFound(JobsError):
    """Nothing of that name, or it is another tenant's."""


class JobNotFound(NotFound):
    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}")


class CheckpointNotFound(NotFound):
    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(f"no checkpoint {checkpoint_id}")


class EvaluationNotFound(NotFound):
    def __init__(self, evaluation_id: str) -> None:
        super().__init__(f"no evaluation {evaluation_id}")


class GroupNotFound(NotFound):
    def __init__(self, group: str) -> None:
        super().__init__(f"no job is of group {group!r}")


class AttemptNotFound(NotFound):
    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"job {job_id} has no attempt {attempt}")


class ApiKeyNotFound(NotFound):
    def __init__(self, key_id: str) -> None:
        super().__init__(f"no API key {key_id}")


class ArtifactNotFound(NotFound):
    def __init__(self, key: str, name: str) -> None:
        super().__init__(f"no file {name} under {key}")


class InvalidTransition(JobsError):
    """The job is in a status that the wanted one cannot follow."""

    def __init__(self, current: JobStatus, wanted: JobStatus) -> None:
        super().__init__(f"a job that is {current} cannot become {wanted}")
        self.current = current
        self.wanted = wanted


class JobNotTerminal(JobsError):
    """Only a job that has ended can be deleted."""

    def __init__(self, job_id: str, status: JobStatus) -> None:
        super().__init__(f"job {job_id} is {status}; cancel it first")
        self.status = status


class CheckpointInUse(JobsError):
    """A job that has not ended would go on from it, or evaluates it."""

    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(f"a job or an evaluation that has not ended needs checkpoint {checkpoint_id}")


class CheckpointMissing(JobsError):
    """The job has no checkpoint of the kind that is wanted, or not yet."""

    def __init__(self, job_id: str, which: str, status: JobStatus) -> None:
        super().__init__(f"job {job_id} is {status} and has no {which} checkpoint")


class LeaseLost(JobsError):
    """The attempt no longer owns its job; nothing that it writes is taken any more."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} no longer owns job {job_id}")
        self.job_id = job_id
        self.attempt = attempt


class IdempotencyMismatch(JobsError):
    """The idempotency key was used for another request."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used for another request")


class DatabaseUnavailable(JobsError):
    """The database cannot be reached, or stayed locked; the same call may succeed later."""


class DatabaseFull(DatabaseUnavailable):
    """No space is left where the database is; it can be read."""

    def __init__(self) -> None:
        super().__init__("no space is left for the database")


class DatabaseReadOnly(DatabaseUnavailable):
    """The database can be read and takes no writes: a standby, or one that was told so."""

    def __init__(self, words: str) -> None:
        super().__init__(f"the database takes no writes: {words}")


class SchemaUnknown(JobsError):
    """The database was made by a newer version of this program."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the database has schema {revision}, which a newer version of this program made: upgrade it")


class InvalidArtifactName(JobsError):
    """A file name or key that could lead out of the store."""


class ArtifactCorrupt(JobsError):
    """A stored file is missing or differs from its checksum; the message names it."""


class StorageFull(JobsError):
    """No space is left where artifacts are stored."""


class DataDirectoryUnusable(JobsError):
    """Nothing can be kept in the data directory, or not in private."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(f"the data directory {directory} cannot be used: {why}")


class SettingsInvalid(JobsError):
    """A setting has a value that makes no sense; the message is one plain sentence."""
