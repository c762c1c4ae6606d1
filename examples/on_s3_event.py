"""An AWS Lambda handler: each file that arrives in a bucket becomes a job. Needs nothing but Python's library.

Takes notifications of S3, directly or through SQS, and events of EventBridge. A notification that AWS delivers again
gives the job that is there already: the idempotency key is made of bucket, key and ETag.

Environment: BATCHMILL_URL, BATCHMILL_TOKEN, OPERATOR, PARAMS (JSON), OUTPUT (a folder for the outputs, one below it
for each file, s3://bucket/prefix).
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 20


class Arrived(NamedTuple):
    """A file in a bucket."""

    bucket: str
    key: str
    etag: str

    @property
    def name(self) -> str:
        """The same for the same content under the same name."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()


def handler(event: dict[str, Any], _context: object = None) -> dict[str, list[str]]:
    """Submit a job for each file; the ids of the jobs. An error has AWS deliver the event again."""
    return {"jobs": [submit(file) for file in arrived(event)]}


def arrived(event: dict[str, Any]) -> Iterator[Arrived]:
    """Find the files that an event names."""
    if event.get("source") == "aws.s3":  # of EventBridge: its keys are as they are
        if event["detail-type"] == "Object Created":
            detail = event["detail"]
            yield Arrived(detail["bucket"]["name"], detail["object"]["key"], detail["object"]["etag"])
        return
    for record in event.get("Records", ()):  # the first message of a bucket, `s3:TestEvent`, has none
        if "body" in record:  # of SQS
            yield from arrived(json.loads(record["body"]))
        elif record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
            found = record["s3"]["object"]  # its key is encoded as in a query: a space is "+"
            yield Arrived(record["s3"]["bucket"]["name"], unquote_plus(found["key"]), found["eTag"])


def submit(file: Arrived) -> str:
    """Submit a job for a file; its id."""
    job = {
        "operator": os.environ["OPERATOR"],
        "params": json.loads(os.environ.get("PARAMS", "{}")),
        "source": {"path": f"s3://{file.bucket}/{file.key}"},
        "output": {"path": f"{os.environ['OUTPUT'].rstrip('/')}/{file.name}"},
        "idempotency_key": file.name,
    }
    headers = {"Authorization": f"Bearer {os.environ['BATCHMILL_TOKEN']}", "Content-Type": "application/json"}
    url = f"{os.environ['BATCHMILL_URL'].rstrip('/')}/v1/jobs"
    request = urllib.request.Request(url, json.dumps(job).encode(), headers)  # noqa: S310  # the operator's own URL
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310  # the same
        return str(json.load(answer)["id"])
