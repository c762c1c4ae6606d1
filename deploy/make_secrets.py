"""Makes the secrets of a compose stack, once: `make_secrets.py [FOLDER]`, in the folders that services mount.

1. A secret that the environment gives (REDIS_PASSWORD, API_TOKENS, METRICS_TOKEN, FLOWER_USERS, GRAFANA_PASSWORD) is
   taken.
2. Otherwise one that lies there from the last start stays.
3. Otherwise it is drawn at random.

Each folder goes to the services that need it and to no other. Files are named after the setting they hold.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

NBYTES = 24
FOR_ITS_OWNER = 0o400
FOR_ALL = 0o444  # Prometheus and Grafana run as other users; only containers that need it mount the folder


def main(root: Path) -> None:
    """Write what is missing or was given anew."""
    password = keep(root / "ledger" / "valkey_password", os.environ.get("REDIS_PASSWORD"))
    write(root / "ledger" / "batchmill_redis_url", f"redis://:{quote(password, safe='')}@valkey:6379/0")
    keep(root / "api" / "batchmill_tokens", os.environ.get("API_TOKENS"))
    keep(root / "metrics" / "batchmill_metrics_token", os.environ.get("METRICS_TOKEN"), mode=FOR_ALL)
    keep(root / "flower" / "batchmill_flower_users", os.environ.get("FLOWER_USERS"), before="flower:")
    keep(root / "grafana" / "admin_password", os.environ.get("GRAFANA_PASSWORD"), mode=FOR_ALL)


def keep(path: Path, given: str | None, *, before: str = "", mode: int = FOR_ITS_OWNER) -> str:
    """The secret in a file: the given one, else the one that lies there, else a new one, which `before` begins."""
    if given:
        write(path, given, mode)
    elif not path.exists():
        write(path, before + secrets.token_urlsafe(NBYTES), mode)
    return path.read_text()


def write(path: Path, text: str, mode: int = FOR_ITS_OWNER) -> None:
    """Put a text in place whole, so that nobody reads half of it."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/secrets"))
