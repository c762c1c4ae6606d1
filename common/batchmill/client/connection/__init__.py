"""The connection to a service: which one, requests with retries, and the events that it sends."""
