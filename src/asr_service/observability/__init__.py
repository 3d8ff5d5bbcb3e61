"""Metrics and logs, each defined in one place."""
