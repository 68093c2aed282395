"""onnxruntime sessions: created once per set of outputs, cached, with clear errors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxvis.errors import ModelError, UnsupportedOperatorError
from onnxvis.graph.cut import cut
from onnxvis.graph.expose import expose
from onnxvis.runtime.providers import Provider, onnxruntime_module, session_arguments

__all__ = ["Sessions", "open_session"]

_UNKNOWN_OPERATOR = ("not a registered function/op", "no op registered", "not_implemented", "no opset import")
_DATA_FOLDER_KEY = "session.model_external_initializers_file_folder_path"


def open_session(
    model: onnx.ModelProto | bytes, provider: Provider, data_folder: Path | None = None, optimize: bool = True
) -> Any:
    """An ``onnxruntime.InferenceSession`` for a graph in memory.

    Args:
        model: the graph.
        provider: where it runs.
        data_folder: folder of external weights, if it has any.
        optimize: onnxruntime's graph optimizations (all, or none).

    Raises:
        UnsupportedOperatorError: onnxruntime has no kernel for an operator, or does not know it.
        ModelError: the graph is invalid.
    """
    ort = onnxruntime_module()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors reach the user once, as an exception
    # Worker threads that wait actively go on for tens of milliseconds after a run, on the cores torch then needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = os.environ.get("ONNXVIS_THREADS", "")
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if data_folder is not None:
        options.add_session_config_entry(_DATA_FOLDER_KEY, str(data_folder))
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(data, options, **session_arguments(provider, options))
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise translate(error, "onnxruntime cannot load the model") from error


def translate(error: Exception, what: str) -> ModelError:
    """One of our errors for one of onnxruntime's, with its first line."""
    text = " ".join(str(error).split())
    for noise in ("[ONNXRuntimeError] : ", "Load model from  failed:"):
        text = text.replace(noise, "")
    text = text[:600]
    lowered = text.lower()
    if any(sign in lowered for sign in _UNKNOWN_OPERATOR):
        return UnsupportedOperatorError(
            f"{what}: an operator is not known to this onnxruntime build ({text}). Export the model without "
            "custom operators, or install the onnxruntime build that it was made for."
        )
    return ModelError(f"{what}: {text}")


class Sessions:
    """All sessions of one deployed graph, by the tensors that go in and come out.

    The unedited session (``run()`` with no tensors) is the one that predicts: exposing tensors can
    switch off fusions, and in an int8 model that moves its answer by the rounding.
    """

    def __init__(
        self, model: onnx.ModelProto, provider: Provider, data_folder: Path | None = None, optimize: bool = True
    ) -> None:
        self.model = model
        self.optimize = optimize
        self.provider = provider
        self.data_folder = data_folder
        self._cache: dict[tuple[tuple[str, ...], tuple[tuple[str, int, int], ...]], Any] = {}

    def get(self, outputs: Sequence[str] = (), inputs: Mapping[str, np.ndarray] | None = None) -> Any:
        """The session that computes ``outputs`` (none: the graph's own) from ``inputs`` (none: the graph's own).

        Args:
            outputs: tensors to compute.
            inputs: tensors at which the graph is cut, with an array each that tells type and rank.

        Raises:
            LayerError: a tensor does not exist or cannot be exposed.
            ModelError: onnxruntime refuses the edited graph.
        """
        cuts = tuple((n, helper.np_dtype_to_tensor_dtype(a.dtype), a.ndim) for n, a in (inputs or {}).items())
        key = (tuple(outputs), cuts)
        if key not in self._cache:
            model = self.model
            if cuts:
                types = {name: (kind, [None] * rank) for name, kind, rank in cuts}
                model = cut(model, tuple(types), outputs, types)
            elif outputs:
                model = expose(model, outputs)
            self._cache[key] = open_session(model, self.provider, self.data_folder, self.optimize)
        return self._cache[key]

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] = (), inputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Run and return arrays by tensor name. Feeds that the graph does not take are left out.

        Args:
            feeds: arrays by tensor name.
            outputs: tensors to compute; none means the graph's own outputs.
            inputs: those of ``feeds`` at which the graph is cut.
        """
        session = self.get(outputs, {name: feeds[name] for name in inputs})
        open_to = (*session.get_inputs(), *session.get_overridable_initializers())  # the latter may be left out
        taken = {value.name: feeds[value.name] for value in open_to if value.name in feeds}
        try:
            results = session.run(None, taken)
        except Exception as error:  # as above
            raise translate(error, "onnxruntime cannot run the model on this input") from error
        return {value.name: array for value, array in zip(session.get_outputs(), results, strict=True)}
