"""The command line: the one place, with the server, that reads the environment and prints for people."""

from .process import starting

with starting():
    from .main import main

__all__ = ["main"]
