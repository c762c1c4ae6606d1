"""The example of a Lambda handler, with the events that moto's S3 sends through SQS and EventBridge."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from support.cluster import TESTS, TOKEN, Cluster
from support.s3_server import s3_application, serving
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

ROWS = [{"id": n, "text": f"row {n}"} for n in range(5)]
KEY = "in box/a+b ü.jsonl"


class Account:
    """An AWS account with a bucket that tells a queue what arrives: `direct`, or `events` by EventBridge."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.s3, self._sqs, self._bridge = (
            boto3.client(name, endpoint_url=endpoint, region_name="us-east-1") for name in ("s3", "sqs", "events")
        )
        self.queues = {name: self._sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("direct", "events")}
        self._bridge.put_rule(Name="arrivals", EventPattern=json.dumps({"source": ["aws.s3"]}))
        self._bridge.put_targets(Rule="arrivals", Targets=[{"Id": "queue", "Arn": self._arn("events")}])
        self.s3.create_bucket(Bucket="arrivals")
        direct = {"QueueArn": self._arn("direct"), "Events": ["s3:ObjectCreated:*"]}
        wanted = {"QueueConfigurations": [direct], "EventBridgeConfiguration": {}}
        self.s3.put_bucket_notification_configuration(Bucket="arrivals", NotificationConfiguration=wanted)

    def received(self, queue: str) -> list[str]:
        found = self._sqs.receive_message(QueueUrl=self.queues[queue], MaxNumberOfMessages=10)
        return [message["Body"] for message in found.get("Messages", [])]

    def close(self) -> None:
        for client in (self.s3, self._sqs, self._bridge):
            client.close()

    def _arn(self, queue: str) -> str:
        found = self._sqs.get_queue_attributes(QueueUrl=self.queues[queue], AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with serving(s3_application()) as endpoint:
        made = Account(endpoint)
        yield made
        made.close()


def collected(account: Account, queue: str) -> list[str]:
    """What a queue has, once there is something."""
    found: list[str] = []

    def look() -> bool:
        found.extend(account.received(queue))
        return bool(found)

    until(look, f"a message in the queue {queue}")
    return found


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("on_s3_event", TESTS.parent / "examples" / "on_s3_event.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_file_that_arrives_becomes_one_job_however_often_it_is_told(
    cluster: Callable[..., Cluster], account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = cluster(S3_ENDPOINT=account.endpoint, S3_REGION="us-east-1").start(slots=(1,))
    told = {
        "BATCHMILL_URL": running.url("a"),
        "BATCHMILL_TOKEN": TOKEN,
        "OPERATOR": "echo",
        "OUTPUT": "s3://arrivals/out",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    handler: Callable[[dict[str, Any]], dict[str, list[str]]] = example().handler
    first = account.received("direct")
    assert [json.loads(body)["Event"] for body in first] == ["s3:TestEvent"]
    assert handler({"Records": [{"body": first[0]}]}) == {"jobs": []}

    body = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    account.s3.put_object(Bucket="arrivals", Key=KEY, Body=body)
    bodies = collected(account, "direct")
    (job_id,) = handler({"Records": [{"body": bodies[0]}]})["jobs"]
    job = running.clients["a"].job(job_id)
    assert [row["id"] for row in job.results()] == [row["id"] for row in ROWS]
    job.wait(timeout=GRACE_S)
    assert handler(json.loads(bodies[0])) == {"jobs": [job_id]}

    of_file = [
        event for event in map(json.loads, collected(account, "events")) if event["detail"]["object"]["key"] == KEY
    ]
    found = of_file[0]["detail"]["object"]
    found["etag"] = found.pop("eTag")  # as AWS writes it there; moto does not
    assert handler(of_file[0]) == {"jobs": [job_id]}
    assert handler({**of_file[0], "detail-type": "Object Deleted"}) == {"jobs": []}
