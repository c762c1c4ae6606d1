"""What a cloud says about its spot machines and their end: requests to its metadata service, and its answers.

Sources: AWS, "Spot Instance interruption notices" and IMDSv2; GCP, "Spot VMs", the metadata `preempted` and
`maintenance-event`; Azure, "Scheduled Events" and "Instance Metadata Service". These services are on the machine's own
link, plain HTTP, never behind a proxy.
"""

from __future__ import annotations

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MAX_BYTES = 1024 * 1024
TOKEN_TTL_S = 21_600
SHORT_NOTICE_S = 30.0
"""What GCP and Azure give at least; assumed where an answer has no time."""

AWS_TOKEN = "/latest/api/token"  # noqa: S105  # a path
AWS_ACTION = "/latest/meta-data/spot/instance-action"
AWS_LIFECYCLE = "/latest/meta-data/instance-life-cycle"
GCP_PREEMPTIBLE = "/computeMetadata/v1/instance/scheduling/preemptible"
GCP_PREEMPTED = "/computeMetadata/v1/instance/preempted"
GCP_MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"
AZURE_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
AZURE_PRIORITY = "/metadata/instance/compute/priority?api-version=2021-02-01&format=text"
AZURE_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
LINK_LOCAL = "http://169.254.169.254"
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
_GOOGLE, _AZURE = {"Metadata-Flavor": "Google"}, {"Metadata": "true"}
_OK, _UNAUTHORIZED, _NOT_FOUND, _GONE = 200, 401, 404, 410


class NoticeUnknown(Exception):
    """The metadata service cannot be reached, or its answer cannot be read."""


def end_by_aws(action: bytes | None) -> float | None:
    """Return when the machine ends, in seconds since the epoch; None if nothing is announced. Pure."""
    if action is None:
        return None
    document = json.loads(action)
    if document["action"] not in ("terminate", "stop", "hibernate"):
        return None
    return datetime.fromisoformat(document["time"]).timestamp()


def end_by_gcp(preempted: bytes | None, maintenance: bytes | None, now_s: float) -> float | None:
    """Return the same. The service gives no time: the machine ends `SHORT_NOTICE_S` after it is asked. Pure."""
    is_ending = (preempted or b"").strip() == b"TRUE"
    is_ending |= (maintenance or b"").strip() == b"TERMINATE_ON_HOST_MAINTENANCE"
    return now_s + SHORT_NOTICE_S if is_ending else None


def end_by_azure(document: bytes | None, machine: str, now_s: float) -> float | None:
    """Return the same. The document lists other machines of the scale set too. Pure."""
    ends = []
    for event in json.loads(document or b"{}").get("Events", []):
        if event["EventType"] in ("Preempt", "Terminate") and machine in event["Resources"]:
            at = event["NotBefore"]  # empty once it has started
            ends.append(parsedate_to_datetime(at).timestamp() if at else now_s + SHORT_NOTICE_S)
    return min(ends, default=None)


class NoticeSource(ABC):
    """The metadata service of a cloud, at `base`; "": where the cloud has it."""

    def __init__(self, base: str = "") -> None:
        split = urlsplit(base or LINK_LOCAL)
        self._host, self._port = split.hostname or "", split.port

    def ends_at(self, now_s: float) -> float | None:
        """Return when this machine ends, in seconds since the epoch; None if nothing is announced.

        Raises `NoticeUnknown`.
        """
        with _answers_that_can_be_read():
            found = self._look(now_s)
        if found is not None and not math.isfinite(found):
            raise NoticeUnknown(f"the machine's end is said to be {found}")
        return found

    def is_spot(self) -> bool:
        """Return whether this is a spot machine. Raises `NoticeUnknown`."""
        with _answers_that_can_be_read():
            return self._ask_whether_spot()

    @abstractmethod
    def _look(self, now_s: float) -> float | None: ...

    @abstractmethod
    def _ask_whether_spot(self) -> bool: ...

    def _ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> bytes | None:
        """Return the body of an answer; None for "not found". Raises `OSError`, `HTTPException` or `_Refused`."""
        connection = HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if answer.status in (_NOT_FOUND, _GONE):
            return None
        if answer.status != _OK:
            raise _Refused(answer.status)
        if len(body) > MAX_BYTES:
            raise OSError(f"the answer to {path} has more than {MAX_BYTES} bytes")
        return body


@contextmanager
def _answers_that_can_be_read() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, *_UNREADABLE) as error:
        raise NoticeUnknown(f"{type(error).__name__}: {error}") from error


class _Refused(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"the metadata service answers with status {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    until_s: float


class AwsNotices(NoticeSource):
    """EC2, by version 2 of its protocol: a token first, which is asked for again before it expires."""

    _token = _Token("", -math.inf)

    def _look(self, now_s: float) -> float | None:
        return end_by_aws(self._ask_with_token(AWS_ACTION, now_s))

    def _ask_whether_spot(self) -> bool:
        return (self._ask_with_token(AWS_LIFECYCLE, time.time()) or b"").strip() == b"spot"

    def _ask_with_token(self, path: str, now_s: float) -> bytes | None:
        try:
            return self._ask(path, self._headers(now_s))
        except _Refused as error:
            if error.status != _UNAUTHORIZED:
                raise
        self._token = _Token("", -math.inf)
        return self._ask(path, self._headers(now_s))

    def _headers(self, now_s: float) -> dict[str, str]:
        if now_s >= self._token.until_s:
            asked = self._ask(AWS_TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}, "PUT")
            self._token = _Token((asked or b"").decode(), now_s + TOKEN_TTL_S / 2)
        return {"X-aws-ec2-metadata-token": self._token.text}


class GcpNotices(NoticeSource):
    """Compute Engine."""

    def _look(self, now_s: float) -> float | None:
        return end_by_gcp(self._ask(GCP_PREEMPTED, _GOOGLE), self._ask(GCP_MAINTENANCE, _GOOGLE), now_s)

    def _ask_whether_spot(self) -> bool:
        return (self._ask(GCP_PREEMPTIBLE, _GOOGLE) or b"").strip() == b"TRUE"


class AzureNotices(NoticeSource):
    """Azure's virtual machines."""

    _machine = ""

    def _look(self, now_s: float) -> float | None:
        if not self._machine:
            self._machine = (self._ask(AZURE_NAME, _AZURE) or b"").decode()
        return end_by_azure(self._ask(AZURE_EVENTS, _AZURE), self._machine, now_s)

    def _ask_whether_spot(self) -> bool:
        return (self._ask(AZURE_PRIORITY, _AZURE) or b"").strip() == b"Spot"


CLOUDS: dict[str, type[NoticeSource]] = {"aws": AwsNotices, "gcp": GcpNotices, "azure": AzureNotices}


def open_notices(cloud: str, base: str) -> NoticeSource | None:
    """Return the source of a cloud; None for `off`. Raises `InvalidSettings` for a URL that is none."""
    if cloud == "off":
        return None
    try:
        split = urlsplit(base or LINK_LOCAL)
        is_url = split.scheme == "http" and bool(split.hostname) and split.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidSettings(
            "BATCHMILL_NOTICES_URL is no URL of a metadata service.",
            hint="It is like http://127.0.0.1:8080; without it, the cloud's own address is asked.",
            name="BATCHMILL_NOTICES_URL",
        )
    return CLOUDS[cloud](base)


def lifecycle_of(source: NoticeSource) -> str:
    """Return the lifecycle of this machine, `spot` or `on_demand`; the latter if its cloud cannot be asked."""
    try:
        return "spot" if source.is_spot() else "on_demand"
    except NoticeUnknown as error:
        log.warning("whether this is a spot machine cannot be asked, its price is that of others: %s", error)
        return "on_demand"
