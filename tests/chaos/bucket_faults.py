"""An S3 server that goes away, refuses requests, answers late, or breaks off, for a cluster with its blobs there."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import boto3
from werkzeug.serving import WSGIRequestHandler, make_server

from chaos.faults import DISK, FaultSet, Struck
from support.s3_server import s3_application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from werkzeug.serving import BaseWSGIServer

REGION = "us-east-1"
NAME = "chaos"
FAULT_S = 3.0
LATE_S = 0.3
REFUSAL = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request, and none for each answer that breaks off."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  # its name there
        """Say nothing."""


class Bucket:
    """A bucket of a server in this process. A context manager.

    does: what it does with a request instead of answering it; each is called with the request and the way to go on.
    """

    def __init__(self) -> None:
        self.does: Callable[[Any, Any], Iterable[bytes]] | None = None
        self._application = s3_application()
        self._requests = itertools.count()
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Bucket:
        self.start()
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION)
        client.create_bucket(Bucket=NAME)
        client.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """Where the server is, also while it is away."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer, with all that was stored."""
        if self._server is None:
            self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Quiet)
            self._port = self._server.port
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="bucket", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.does is not None:
            return self.does(environ, start_response)
        return self.answer(environ, start_response)

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request as S3 does."""
        answered: Iterable[bytes] = self._application(environ, start_response)
        return answered

    def refuse(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Refuse every other request."""
        if next(self._requests) % 2:
            return self.answer(environ, start_response)
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(REFUSAL)))])
        return [REFUSAL]

    def answer_late(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer after a while."""
        time.sleep(LATE_S)
        return self.answer(environ, start_response)

    def break_off(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Do what is asked for, and break every other answer off in its middle."""
        answered = b"".join(self.answer(environ, start_response))
        return [answered] if next(self._requests) % 2 else _half(answered)


def _half(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError  # the server closes the connection, though it has announced more


class BucketFaults(FaultSet):
    """Those of the bucket. One at a time."""

    def __init__(self, *common: Any, bucket: Bucket) -> None:
        super().__init__(*common)
        self._bucket = bucket

    def _do_bucket_away(self) -> Struck | None:
        return self._strike("bucket_away", self._bucket.stop, self._bucket.start)

    def _do_bucket_refuses(self) -> Struck | None:
        return self._behave("bucket_refuses", self._bucket.refuse)

    def _do_bucket_late(self) -> Struck | None:
        return self._behave("bucket_late", self._bucket.answer_late)

    def _do_bucket_breaks_off(self) -> Struck | None:
        return self._behave("bucket_breaks_off", self._bucket.break_off)

    def _behave(self, kind: str, does: Callable[[Any, Any], Iterable[bytes]]) -> Struck | None:
        def set_to(value: Callable[[Any, Any], Iterable[bytes]] | None) -> None:
            self._bucket.does = value

        return self._strike(kind, lambda: set_to(does), lambda: set_to(None))

    def _strike(self, kind: str, begin: Callable[[], None], end: Callable[[], None]) -> Struck | None:
        if self.repairs.lasts("bucket_away", "bucket_refuses", "bucket_late", "bucket_breaks_off"):
            return None
        begin()
        return self.repairs.after(FAULT_S, Struck(kind, DISK, "the bucket", time.time()), end)
