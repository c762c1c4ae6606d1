"""What coordinators and workers say to each other on the lane: requests, and numbered replies. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class LaneRequest:
    """Rows that a worker with the model loaded is to answer at once.

    id: unique. attempt: 0, or 1 if a worker was lost with it. coordinator: who waits for the replies. model: its key.
    streams: whether text is wanted while it is generated. leaves_places: whether places of an engine are to be left for
    other tenants.
    """

    id: str
    coordinator: str
    tenant: str
    pool: str
    model: str
    operator: str
    params: dict[str, Any]
    rows: list[dict[str, Any]]
    streams: bool = False
    attempt: int = 0
    leaves_places: bool = False

    @property
    def key(self) -> str:
        """What names this attempt: the same worker may get both."""
        return f"{self.id}.{self.attempt}"

    def again(self) -> Self:
        """Return the request for another worker."""
        return replace(self, attempt=self.attempt + 1)

    def encode(self) -> bytes:
        """Return the message. Equal for equal requests, so that it can be found in its list."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Read a message."""
        return cls(**_known(cls, message))


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A model that a worker of a pool is to load, on behalf of a tenant."""

    tenant: str
    model: str
    operator: str
    params: dict[str, Any]

    def encode(self) -> bytes:
        """Return the message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Read a message."""
        return cls(**_known(cls, message))


class ReplyKind(StrEnum):
    """What a reply is, and what its payload is."""

    TAKEN = "taken"  # the name of the worker that has the request now
    TEXT = "text"  # JSON: a row and more text of its answer
    DONE = "done"  # all results, as an Arrow IPC stream; the last reply
    STORED = "stored"  # as done, with the results in a key of their own; `LaneLedger` makes DONE of it
    ERROR = "error"  # the envelope of an error, as JSON; the last reply


@dataclass(frozen=True, slots=True)
class LaneReply:
    """One reply to an attempt of a request. number: from 0, without a gap."""

    id: str
    attempt: int
    number: int
    kind: ReplyKind
    payload: bytes

    @property
    def key(self) -> str:
        """That of the request."""
        return f"{self.id}.{self.attempt}"

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.kind in (ReplyKind.DONE, ReplyKind.ERROR)

    def encode(self) -> bytes:
        """Return the message."""
        return f"{self.id}|{self.attempt}|{self.number}|{self.kind}|".encode() + self.payload

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """Read a message."""
        request_id, attempt, number, kind, payload = message.split(b"|", 4)
        return cls(request_id.decode(), int(attempt), int(number), ReplyKind(kind.decode()), payload)


def _known(kind: type[LaneRequest | LoadRequest], message: bytes) -> dict[str, Any]:
    """Return the fields of a message that this version knows: a later one may send more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in json.loads(message).items() if name in names}
