"""Logging and metric helpers of every service."""
