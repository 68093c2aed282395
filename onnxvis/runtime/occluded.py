"""Covered pictures that are made inside the graph: the picture is handed over once, each batch only its offsets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from onnxvis.graph.expose import expose
from onnxvis.graph.occlude import occlude
from onnxvis.runtime.providers import Provider, onnxruntime_module
from onnxvis.runtime.session import open_session, translate

__all__ = ["OccludedSession"]

_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}


class OccludedSession:
    """One session with bound inputs: picture, baseline and window stay where the model runs.

    Args:
        model: the deployed graph, its batch axis free.
        image_input: its input that takes pictures.
        layout: of that input.
        output: the tensor to compute.
        provider: where it runs.
        data_folder: of external weights.
        constants: values of the other inputs.

    Raises:
        ModelError: windows cannot be covered inside this graph, or onnxruntime refuses it.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        image_input: str,
        layout: str,
        output: str,
        provider: Provider,
        data_folder: Path | None,
        constants: Mapping[str, np.ndarray],
    ) -> None:
        self._graph = occlude(expose(model, (output,)), image_input, layout)
        self._session = open_session(self._graph.model, provider, data_folder)
        self._device = _DEVICES.get(provider.name, "cpu")
        self._output = output
        self._binding = self._session.io_binding()
        taken = {value.name for value in self._session.get_inputs()}
        for name, value in constants.items():
            if name in taken:
                self._bind(name, value)

    def start(self, picture: np.ndarray, window: tuple[int, int], baseline: np.ndarray | None) -> None:
        """Hand over what stays the same for all batches.

        Args:
            picture: ``(1, ...)`` in the model's type and layout.
            window: height and width.
            baseline: the same for all windows, broadcastable to the picture; None where each has its own.
        """
        self._bind(self._graph.picture, picture)
        self._bind(self._graph.window, np.array(window, np.int64))
        if baseline is not None:
            self._bind(self._graph.baseline, baseline)

    def __call__(self, offsets: np.ndarray, baselines: np.ndarray | None = None) -> np.ndarray:
        """The output for each window.

        Args:
            offsets: ``(M, 2)``, first row and column.
            baselines: one for each window, ``(M, ...)``, where :meth:`start` got none.

        Raises:
            ModelError: the model does not run.
        """
        self._bind(self._graph.offsets, offsets.astype(np.int64))
        if baselines is not None:
            self._bind(self._graph.baseline, baselines)
        self._binding.clear_binding_outputs()
        self._binding.bind_output(self._output, "cpu")
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise translate(error, "onnxruntime cannot run the model on pictures that it covers itself") from error
        return np.asarray(self._binding.copy_outputs_to_cpu()[0])

    def _bind(self, name: str, value: np.ndarray) -> None:
        on_device = onnxruntime_module().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, 0)
        self._binding.bind_ortvalue_input(name, on_device)
