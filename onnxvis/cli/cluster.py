"""Who computes: the options of several commands, and what they say of the actors at the end."""

from __future__ import annotations

from dataclasses import dataclass

from rich.markup import escape

from onnxvis.cli.console import out
from onnxvis.cluster.pool import ClusterOptions, Pace
from onnxvis.errors import UsageError

__all__ = ["Cluster", "pace_lines", "say_pace"]


@dataclass(frozen=True)
class Cluster:
    """Who computes, as it was asked for on the command line."""

    engine: str = "local"
    address: str | None = None
    actors: int | None = None
    cpus: int = 1
    gpus: float = 0.0

    def options(self) -> ClusterOptions | None:
        """Where the actors run; ``None`` for this process alone.

        Raises:
            UsageError: no engine of that name; or options of a cluster without one.
        """
        if self.engine == "local":
            if self.address is not None or self.actors is not None or self.gpus:
                raise UsageError("--ray-address, --actors and --gpus-per-actor go with --engine ray.")
            return None
        if self.engine != "ray":
            raise UsageError(f"--engine is local or ray, not {self.engine!r}.")
        return ClusterOptions(self.address, self.actors, self.cpus, self.gpus)


def pace_lines(pace: Pace, pictures: int) -> list[str]:
    """What the actors did with so many pictures, in words."""
    busy = sum(pace.busy.values())
    each = f"{pictures / busy:.1f} pictures/s each while it worked" if busy else "no work"
    part = busy / max(pace.actors * pace.seconds, 1e-9)
    lines = [f"{pace.actors}, {each}; they worked {part:.0%} of the time"]
    slowest = pace.slowest()
    if slowest is not None:
        lines.append(f"most of their time ({slowest[1]:.0%}) went into {slowest[0]}")
    return lines


def say_pace(pace: Pace, pictures: int) -> None:
    """Print it."""
    for number, line in enumerate(pace_lines(pace, pictures)):
        out.print(f"[bold]{'' if number else 'actors':<10}[/] {escape(line)}")
