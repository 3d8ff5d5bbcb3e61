"""Other systems to measure against, each in a virtual environment of its own outside the project.

Owns how they are installed, started and stopped. `python -m benchmarks.peers setup NAME` installs one.
"""
