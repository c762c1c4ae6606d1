"""Asking a web page, with a name and a password or without."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request

from support.waiting import GRACE_S


def ask_page(url: str, user: str | None, *, method: str = "GET") -> tuple[int, str]:
    """The status and the body that come back; `user` is "name:password"."""
    request = urllib.request.Request(url, method=method, data=b"" if method != "GET" else None)  # noqa: S310  # http
    if user is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=GRACE_S) as answer:  # noqa: S310  # http
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
