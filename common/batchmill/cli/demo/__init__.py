"""`batchmill demo`: embed a real corpus with a real model on this machine, and search it."""

from batchmill.cli.demo.command import demo

__all__ = ["demo"]
