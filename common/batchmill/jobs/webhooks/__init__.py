"""Webhooks: the messages that the service sends when something happened to a job."""
