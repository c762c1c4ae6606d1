"""The worker: the supervisor, the device-pinned Celery processes, the batching engine and its operators."""
