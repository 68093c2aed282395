"""The command line. It uses everything; nothing uses it."""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done. 2: something given was not usable (one clear message on stderr). 130: interrupted; finished
    results are kept. 1: a defect of onnxvis itself.
    """
    from onnxvis.cli.console import run

    return run(arguments)
