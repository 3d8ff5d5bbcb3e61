"""How much each caller may use: requests, seconds of audio, requests at once, and failed logins.

Owns what is counted, over which time, and where. Knows neither HTTP nor how anybody is recognised; docs/limits.md has
the rules that callers see.
"""
