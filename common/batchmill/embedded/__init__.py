"""The embedded service: a bundled Valkey, a coordinator and workers on this machine, with data in one folder."""

from batchmill.embedded.local import local

__all__ = ["local"]
