"""Work for actors that goes wrong, in a module that the actors can import; and the end of actors from outside."""

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


def kill_actors() -> None:
    """End all actors of this process's cluster, as a machine does that fails."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents = _ancestors(int(folder.name))
        except (OSError, ValueError):
            continue
        if words.startswith("ray::_Actor") and os.getpid() in parents:
            found.append(int(folder.name))
    assert found
    for process in found:
        os.kill(process, signal.SIGKILL)


def _ancestors(process: int) -> set[int]:
    found: set[int] = set()
    while process > 1:
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.split("PPid:")[1].split()[0])
        found.add(process)
    return found
