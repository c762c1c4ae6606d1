"""Webhooks: messages about jobs, how they are signed and sent, and what becomes of them."""
