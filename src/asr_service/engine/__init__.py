"""Continuous batching: scheduler, engine process and the client that supervises it."""
