"""An S3 server for tests: moto's, with conditional writes that are atomic as those of S3 are."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def s3_application() -> Callable[[dict[str, Any], Any], Any]:
    """A WSGI application. moto by itself looks for the object, then writes it: two requests at once could both win."""
    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return moto(environ, start_response)
        with lock:
            return list(moto(environ, start_response))

    return answer


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of a server that runs a WSGI application as long as the block lasts."""
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
