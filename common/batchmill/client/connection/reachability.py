"""Why a service cannot be reached, in words of its users; the texts of the HTTP library name its own objects."""

from __future__ import annotations

import os
import ssl

import aiohttp


def why_unreachable(error: Exception) -> str | None:
    """Return why a connection could not be made or broke; None when what answers does not speak the URL's protocol."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"no host is called {error.host!r}"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not accepted ({_of_certificate(error.certificate_error)})"
        case aiohttp.ClientSSLError():
            return None
        case aiohttp.ServerTimeoutError():
            return "it does not answer"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "it closed the connection before its answer was complete"
        case aiohttp.ClientConnectorError():
            return _of_system(error.os_error) or "no connection could be made"
        case aiohttp.ClientOSError():
            return _of_system(error) or "the connection broke"
        case aiohttp.ClientConnectionError():
            return "the connection broke"
        case _:
            return None


def _of_certificate(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else "it does not verify"


def _of_system(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else ""
