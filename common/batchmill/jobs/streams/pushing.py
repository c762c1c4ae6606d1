"""Rows that are sent to a stream, and what the service says to them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from batchmill.jobs.frozen import Frozen, Name


class PushRequest(Frozen):
    """The body of `POST /v1/streams/{name}`: rows, as objects or as an Arrow stream."""

    rows: list[dict[str, Any]] | None = None
    rows_arrow: str | None = None  # an Arrow IPC stream in base64: like `rows`, with exact types
    producer: Name | None = None  # who sends them: with `sequence`, sending them again changes nothing
    sequence: Annotated[int, Field(ge=1, lt=2**53, strict=True)] | None = None  # greater than that of all rows before

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.rows is None) == (self.rows_arrow is None):
            raise ValueError("expected either rows or rows_arrow")
        if (self.producer is None) != (self.sequence is None):
            raise ValueError("expected producer and sequence, or neither")
        return self


class Pushed(Frozen):
    """What became of rows that were sent."""

    stream: str
    """The stream that they were sent to."""
    rows: int
    """How many they are."""
    offset: str | None
    """Where they are in the stream; None if they were known."""
    known: bool
    """Whether the producer had sent them before; then nothing changed."""


class PushedStream(Frozen):
    """A stream to which rows are sent."""

    name: str
    """Its name."""
    rows: int
    """How many rows were ever sent to it."""
    nbytes: int
    """Bytes of the rows that are not settled yet."""
