"""Connections to Redis, for the ledger and for Celery alike: an error reply that passes counts as a broken connection.

All that reconnects then also survives a failover, a full memory or disk, and a changed password: redis-py's retries,
its pipelines and subscriptions, and Celery's consumer. A new connection may reach another server, which is what a
failover needs.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from redis.credentials import CredentialProvider
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from batchmill.errors import LedgerRefused, ServiceUnavailable
from batchmill.redis_access.replies import UNEXECUTED, ErrorReply, ReplyKind, classify

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from batchmill.redis_access.address import Login

T = TypeVar("T")


class ServerUnavailable(redis.ConnectionError):
    """The server answered with an error that is no fault of the request.

    is_unexecuted: whether neither this attempt nor any before it can have been executed; see `NotingRetry`.
    """

    is_unexecuted = False

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(f"the server {reply.reason} ({reply.code})", status_code=reply.code)
        self.reply = reply


class NotingRetry(Retry):
    """Retries as redis-py does, and notes in the last error whether all attempts were refused."""

    def call_with_retry(self, do: Callable[[], T], *args: Any, **kwargs: Any) -> T:
        """Return what `do` returns; raise its last error."""
        is_unexecuted = True

        def attempt() -> T:
            nonlocal is_unexecuted
            try:
                return do()
            except ServerUnavailable as error:
                is_unexecuted = is_unexecuted and error.reply.code in UNEXECUTED
                error.is_unexecuted = is_unexecuted
                raise
            except Exception:
                is_unexecuted = False  # the connection broke: its answer may be lost
                raise

        return super().call_with_retry(attempt, *args, **kwargs)


class _Translating:
    """Reads replies; one of the kinds away and refused ends the connection."""

    @property
    def is_outdated(self) -> bool:
        """Whether it reaches a server that is no longer the one to ask."""
        return False

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply. Raises `ServerUnavailable`, or `ResponseError` for what is a bug."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]  # redis-py's connections have it
        except NoScriptError:  # redis-py loads the script
            raise
        except ResponseError as error:
            reply = classify(_text_of(error))
            if reply.kind is ReplyKind.BUG:
                raise
            self.disconnect()  # type: ignore[attr-defined]  # as above
            raise ServerUnavailable(reply) from error


class TcpConnection(_Translating, redis.Connection):
    """Over TCP."""


class TlsConnection(_Translating, redis.SSLConnection):
    """Over TLS. Contexts are shared: making one reads all authorities of the system, and a failover connects dozens."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        files = (self.ca_certs, self.certfile, self.keyfile)
        system = ssl.get_default_verify_paths()
        stamps = tuple(map(_stamp, (*files, system.cafile, system.capath)))
        context = _context(self.cert_reqs, self.check_hostname, files, stamps)
        return context.wrap_socket(sock, server_hostname=self.host)


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    """What differs once a file has other content: certificates are renewed while services run."""
    if path is None:
        return None
    found = os.stat(path)  # noqa: PTH116  # the path is text
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=8)
def _context(
    cert_reqs: ssl.VerifyMode,
    check_hostname: bool,
    files: tuple[str | None, str | None, str | None],
    stamps: tuple[tuple[int, int, int] | None, ...],  # noqa: ARG001  # a key of the cache
) -> ssl.SSLContext:
    authorities, certificate, key = files
    context = ssl.create_default_context()
    context.check_hostname = check_hostname
    context.verify_mode = cert_reqs
    if certificate:
        context.load_cert_chain(certificate, key)
    if authorities:
        context.load_verify_locations(authorities)
    return context


class UnixConnection(_Translating, redis.UnixDomainSocketConnection):
    """Over a Unix socket."""


class PasswordFile(CredentialProvider):
    """The user name, and the password that its file has now: tokens of managed services expire."""

    def __init__(self, username: str | None, path: str) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read the file. Raises `ServerUnavailable` when it cannot be read."""
        try:
            password = Path(self._path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"Make {self._path}, which BATCHMILL_REDIS_URL names, readable for this user."
            reply = ErrorReply(ReplyKind.REFUSED, "PASSWORDFILE", f"has a password that cannot be read: {error}", hint)
            raise ServerUnavailable(reply) from error
        return (self._username, password) if self._username else (password,)


def login_parameters(login: Login) -> dict[str, Any]:
    """The keyword arguments of redis-py's connections that say who asks."""
    if login.password_file is not None:
        return {"credential_provider": PasswordFile(login.username, login.password_file)}
    return {"username": login.username, "password": login.password}


def unavailable(error: BaseException) -> ServiceUnavailable | None:
    """The error that users see in place of one of redis-py's; None: it is a bug, and stays what it is."""
    reply = _reply_of(error)
    if reply is None:
        return None
    if reply.kind is ReplyKind.BUG:
        return None
    kind = LedgerRefused if reply.kind is ReplyKind.REFUSED else ServiceUnavailable
    made = kind(f"the ledger's Redis {reply.reason} ({reply.code}).", hint=reply.hint)
    made.is_unexecuted = isinstance(error, ServerUnavailable) and error.is_unexecuted
    return made


def _reply_of(error: BaseException) -> ErrorReply | None:
    if isinstance(error, ServerUnavailable):
        return error.reply
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        reply = classify(_text_of(error)) if getattr(error, "status_code", None) else None
        return reply if reply is not None and reply.kind is not ReplyKind.BUG else _broken(error)
    return classify(_text_of(error)) if isinstance(error, ResponseError) else None


def _broken(error: BaseException) -> ErrorReply:
    """A connection that cannot be made, or broke."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ErrorReply(
            ReplyKind.REFUSED,
            "TLS",
            "has a certificate that cannot be verified",
            "Name the authority that signed it: rediss://…?ssl_ca_certs=FILE; its name must be the host of the URL.",
        )
    name = type(error).__name__
    hint = "Check that the Redis or Valkey server runs and that BATCHMILL_REDIS_URL names it."
    return ErrorReply(ReplyKind.AWAY, name, "cannot be reached", hint)


def _text_of(error: BaseException) -> str:
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code else str(error)
