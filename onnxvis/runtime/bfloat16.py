"""The deployed graph computed in bfloat16, by OpenVINO's plug-in: only where a user asks for it."""

from __future__ import annotations

import weakref

import numpy as np

from onnxvis.runtime.engine import Engine
from onnxvis.runtime.providers import bfloat16_provider
from onnxvis.runtime.session import Sessions

__all__ = ["Bfloat16", "bfloat16"]

_opened: weakref.WeakKeyDictionary[Engine, Bfloat16] = weakref.WeakKeyDictionary()


class Bfloat16:
    """Runs pictures, as many at once as are given where the graph allows batches.

    Args:
        engine: of the model.
        sample: one picture ``(1, ...)``.

    Raises:
        DependencyError: the plug-in is not installed.
        UsageError: it does not serve this machine.
    """

    def __init__(self, engine: Engine, sample: np.ndarray) -> None:
        self.provider = bfloat16_provider()
        plan, own = engine.batch_plan(sample), engine.batched(sample)
        self.sessions = Sessions(own.model, self.provider, own.data_folder)
        self._copies = max(1, plan.fixed) if plan.kind == "looped" else 0
        self._image, self._constants = engine.image_input, engine.constants

    def __call__(self, x: np.ndarray, tensor: str) -> dict[str, np.ndarray]:
        """One tensor of pictures ``(N, ...)``, by name.

        Raises:
            ModelError: the graph does not run on this input.
        """
        if not self._copies:
            return self._run(x, tensor)
        rows = [np.repeat(x[i : i + 1], self._copies, axis=0) for i in range(len(x))]
        return {tensor: np.concatenate([self._run(row, tensor)[tensor][:1] for row in rows])}

    def _run(self, x: np.ndarray, tensor: str) -> dict[str, np.ndarray]:
        return self.sessions.run({**self._constants, self._image: x}, (tensor,))


def bfloat16(engine: Engine, sample: np.ndarray) -> Bfloat16:
    """The one of an engine, opened when first asked for."""
    if engine not in _opened:
        _opened[engine] = Bfloat16(engine, sample)
    return _opened[engine]
