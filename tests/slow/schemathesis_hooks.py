"""What `schemathesis` cannot know of the API: how the body of an upload's part is sent."""

from __future__ import annotations

from typing import Any

import schemathesis

ARROW_FILE = "application/vnd.apache.arrow.file"


@schemathesis.serializer(ARROW_FILE)  # type: ignore[arg-type]  # it expects bytes, and takes arguments of `requests` too
def arrow_file(_: Any, value: Any) -> dict[str, Any]:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return {"data": data, "headers": {"Content-Type": ARROW_FILE}}
