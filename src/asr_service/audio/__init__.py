"""Untrusted audio bytes to speech windows, in sandboxed worker processes."""
