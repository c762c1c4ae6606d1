"""Whose an output folder is that is written roll by roll: a small file beside the manifests of its rolls."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from batchmill.errors import NotFound, StorageError

if TYPE_CHECKING:
    from batchmill.storage.blobs import BlobStore

NAME = "_owner.json"


@dataclass(frozen=True, slots=True)
class RollOwner:
    """The job that writes into a folder, or has."""

    job: str
    first_roll: int = 0  # how many rolls the jobs before it have written
    rolls: int | None = None  # how many there are, since it has ended

    @property
    def is_open(self) -> bool:
        """Whether the job still writes."""
        return self.rolls is None

    def to_bytes(self) -> bytes:
        """Return it as it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, store: BlobStore) -> Self | None:
        """Read it; None if no job has taken the folder for rolls. Raises `StorageError`, also for a broken one."""
        try:
            return cls(**json.loads(bytes(store.get(NAME))))
        except NotFound:
            return None
        except (ValueError, TypeError) as error:
            uri = store.location(NAME).uri
            raise StorageError(f"{uri} was not written by Batchmill.", hint="Delete it.", path=uri) from error
