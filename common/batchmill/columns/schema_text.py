"""A schema as text, for documents in JSON: base64 of its Arrow IPC message."""

from __future__ import annotations

import base64

import pyarrow as pa


def encode_schema(schema: pa.Schema) -> str:
    """Return a schema as text."""
    return base64.b64encode(schema.serialize()).decode()


def decode_schema(text: str | bytes) -> pa.Schema:
    """Return the schema that `encode_schema` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
