"""The Python client: over HTTP only, in a blocking and in an asynchronous form with the same methods."""

from batchmill.client.asynchronous import AsyncClient
from batchmill.client.blocking import Client
from batchmill.client.blocking_job import Job
from batchmill.client.job import AsyncJob

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job"]
