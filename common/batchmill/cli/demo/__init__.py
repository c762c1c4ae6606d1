"""`batchmill demo`: a real corpus, a real model and a few questions, on this machine."""

from batchmill.cli.demo.command import demo

__all__ = ["demo"]
