"""Where relative paths start, on the machine of an actor."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["standing_in"]


def standing_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Work as if the command had been given here.

    A machine without the folder stays where it is: it can read URLs and absolute paths; all else counts as missing.
    """
    return contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext()
