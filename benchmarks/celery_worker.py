"""What `celery -A benchmarks.celery_worker worker` loads."""

from __future__ import annotations

import os

from benchmarks.celery_tasks import URL, make_app

app = make_app(os.environ[URL])
