"""Work for actors that goes wrong; in a module that the actors can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import onnxvis
from onnxvis.errors import UsageError


def die_once(model: onnxvis.Model, item: tuple[int, str]) -> tuple[tuple[int, int], dict[str, float]]:
    """Kills its own process the first time that it sees a multiple of three; answers with its number of threads."""
    number, folder = item
    mark = Path(folder) / str(number)
    if number % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (number, int(os.environ["ONNXVIS_THREADS"])), {}


def always_die(model: onnxvis.Model, item: int) -> tuple[int, dict[str, float]]:
    os.kill(os.getpid(), signal.SIGKILL)
    return item, {}


def refuse(model: onnxvis.Model, item: int) -> tuple[int, dict[str, float]]:
    raise UsageError(f"not {item}")
