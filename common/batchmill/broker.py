"""How Celery's messages travel on Redis: the one place for queue names and transport options."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from batchmill.backoff import Backoff
from batchmill.jobs.shard import ShardRef, parse_shard_id
from batchmill.redis_access.address import RedisAddress
from batchmill.wording import printable

if TYPE_CHECKING:
    from batchmill.settings import ServiceSettings

RECONNECT = Backoff(base_s=0.5, max_s=2.0)
"""How long a worker waits before it asks again for a broker that is away. Celery's own waits grow to 30 s."""

HEALTH_CHECK_INTERVAL_S = 3
"""How often a worker looks whether the broker still answers: one that hangs is left within twice that."""

PUBLISH = Backoff(base_s=0.05, max_s=1.0)
PUBLISH_RETRIES = 3


def queue_of(pool: str) -> str:
    """The Celery queue of a pool."""
    return f"pool.{pool}"


def spare_queue_of(pool: str) -> str:
    """The queue that only workers with memory for another model consume from."""
    return f"{queue_of(pool)}/spare"


def model_queue_of(pool: str, model: str) -> str:
    """The queue that the workers of a pool consume from while they have a model loaded; no pool's name has a slash."""
    return f"{queue_of(pool)}/{model}"


def task_name(operator: str) -> str:
    """The Celery task that runs shards of an operator."""
    return f"batchmill.{operator}"


def task_arguments(ref: ShardRef) -> list[str | int]:
    """A message's arguments: ids and token, nothing else."""
    job_id, stage, shard_id, token = ref.attempt_key.split("|")
    return [job_id, int(stage), shard_id, int(token)]


def task_id(ref: ShardRef) -> str:
    """The id of an attempt's task, derived from the attempt's name alone, so that its result can be looked up."""
    return str(uuid5(NAMESPACE_OID, f"batchmill:{ref.attempt_key}"))


def describe_arguments(ref: ShardRef, job_name: str | None, stage_name: str | None = None) -> str:
    """A message's arguments as Flower and logs show them: what differs first, because Flower's lists cut them short.

    stage_name: in a chain.
    """
    job_id, stage, shard_id, token = ref.attempt_key.split("|")
    named = f"stage {stage}" if int(stage) else ""
    where = f"{printable(stage_name) if stage_name else named} shard {shard_id}".lstrip()
    return " · ".join([f"#{token} {where}", *([printable(job_name)] if job_name else []), job_id])


def attempt_of(message: bytes) -> ShardRef:
    """The attempt of a message as it is stored in a queue."""
    (job_id, stage, shard_id, token), _, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    return ShardRef(job_id, stage, parse_shard_id(shard_id), token)


def kombu_waits(backoff: Backoff) -> dict[str, float]:
    """A backoff as kombu's own retries take it: they know no jitter, and add `base_s` each time up to `max_s`."""
    return {"interval_start": backoff.base_s, "interval_step": backoff.base_s, "interval_max": backoff.max_s}


def celery_settings(settings: ServiceSettings) -> dict[str, Any]:
    """The settings that dispatcher and workers share, as Celery names them."""
    return {
        "broker_url": "redis://",  # the transport takes the address below; this one is shown, without a password
        "broker_transport": "batchmill.redis_access.transport:Transport",
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "address": RedisAddress.parse(settings.redis_url),
            "global_keyprefix": settings.redis_prefix,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_create_missing_queues": True,
        "enable_utc": True,
    }
