"""How long work reports where it is: a plain callable, so that no library is forced on anyone."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called with what is being done, how many steps are done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
