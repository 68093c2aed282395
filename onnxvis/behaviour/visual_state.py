"""Where an ascent is, as one value that can be kept in a file and gone on from."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import OutputError
from onnxvis.files import write_atomic

__all__ = ["Climb", "load_climb", "save_climb"]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Climb:
    """The state of all restarts of one target.

    Attributes:
        variables: ``(R, C, H, W)`` what is moved, for each restart.
        first: Adam's running mean of the gradient.
        second: and of its square.
        awake: (R,) whether the restart has met a gradient yet.
        scores: ``(R, steps)``: the score of each restart's views before each step, as the gradient's backend
            saw it.
        stages: step -> pictures ``(R, C, H, W)`` uint8 on the way.
        step: steps done.
        attempts: how often restarts without a gradient began anew from stronger noise.
        interrupted: whether it was stopped before its last step.
        notes: what there is to say, such as the remarks of the gradient's backend.
    """

    variables: Array
    first: Array
    second: Array
    awake: NDArray[np.bool_]
    scores: NDArray[np.float64]
    stages: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    step: int = 0
    attempts: int = 0
    interrupted: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def begin(cls, variables: Array) -> Climb:
        """Nothing done yet."""
        count = len(variables)
        still = np.zeros_like(variables)
        return cls(variables, still, still, np.zeros(count, bool), np.zeros((count, 0)))


def save_climb(path: Path, key: str, state: Climb) -> None:
    """Keep a state; the file appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    arrays: dict[str, Any] = {f"stage_{step}": pictures for step, pictures in state.stages.items()}
    arrays |= {name: getattr(state, name) for name in ("variables", "first", "second", "awake", "scores")}
    arrays |= {"key": np.array(key), "step": np.array(state.step), "attempts": np.array(state.attempts)}
    arrays["notes"] = np.array(state.notes, dtype=str)
    data = io.BytesIO()
    np.savez(data, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.getvalue())
    except OSError as error:
        raise OutputError(f"cannot keep the state in {path}: {error.strerror or error}.") from error


def load_climb(path: Path, key: str) -> tuple[Climb | None, tuple[str, ...]]:
    """The state of an earlier climb of the same key, if the file holds one; and a note where it is damaged.

    A damaged file is set aside; one of another key is left for the next save to replace.
    """
    if not path.is_file():
        return None, ()
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None, ()
            return Climb(
                variables=data["variables"],
                first=data["first"],
                second=data["second"],
                awake=data["awake"],
                scores=data["scores"],
                stages={int(n.removeprefix("stage_")): data[n] for n in data.files if n.startswith("stage_")},
                step=int(data["step"]),
                attempts=int(data["attempts"]),
                notes=tuple(str(note) for note in data["notes"]),
            ), ()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        return None, (f"the state of an earlier climb could not be read and was set aside as {aside.name}",)
