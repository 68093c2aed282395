"""Execution providers: which one runs the model, and why.

A provider that onnxruntime lists may still not work on the machine (a CUDA build without a GPU lists
CUDA), so a provider is believed only after it has run a one-node graph.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from onnxvis.errors import DependencyError, UsageError, did_you_mean

__all__ = ["Provider", "choose_provider", "onnxruntime_module", "provider_arguments"]

_SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# fp32 everywhere unless asked otherwise: these options switch silent low precision off.
_OPTIONS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0"},
    "OpenVINOExecutionProvider": {"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
}


@dataclass(frozen=True)
class Provider:
    """An execution provider that has been seen to work.

    Attributes:
        name: onnxruntime's name, such as ``CPUExecutionProvider``.
        reason: one sentence: why this one.
    """

    name: str
    reason: str

    @property
    def short(self) -> str:
        """The word of the command line: ``cpu``, ``cuda`` ..."""
        return next((k for k, v in _SHORT.items() if v == self.name), self.name)


def onnxruntime_module() -> Any:
    """The onnxruntime package.

    Raises:
        DependencyError: neither onnxruntime nor onnxruntime-gpu is installed, or the installed one is broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "onnxruntime is needed to run a model and cannot be imported "
            f"({error}). Install exactly one of its builds: `pip install onnxvis[cpu]`, or `pip install onnxvis[gpu]` "
            "on a machine with an NVIDIA GPU."
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DependencyError(
            "the installed onnxruntime is broken (two builds in one environment overwrite each other). "
            "Run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxvis[cpu]` or `onnxvis[gpu]`."
        )
    return onnxruntime


def choose_provider(wanted: str | None = None) -> Provider:
    """The provider asked for, or the best one that works on this machine.

    Args:
        wanted: a short name (``cpu``, ``cuda``), a full one (``CUDAExecutionProvider``), or ``None``/"auto".

    Raises:
        UsageError: the provider is unknown, not part of this build, or does not work here.
    """
    listed = onnxruntime_module().get_available_providers()
    if wanted in (None, "auto"):
        if _SHORT["cuda"] in listed:
            failure = _probe(_SHORT["cuda"])
            if failure is None:
                return Provider(_SHORT["cuda"], "CUDA is available and ran a probe graph")
            return Provider(_SHORT["cpu"], f"CUDA is listed but does not work here ({failure})")
        return Provider(_SHORT["cpu"], "the only provider of this onnxruntime build that is chosen by itself")
    name = _SHORT.get(str(wanted).casefold(), str(wanted))
    if name not in _SHORT.values() and name not in listed:
        raise UsageError(f"unknown execution provider {wanted!r}.{did_you_mean(str(wanted), _SHORT)}")
    if name not in listed:
        have = ", ".join(_short(n) for n in listed)
        hint = " Install `onnxvis[gpu]`." if name == _SHORT["cuda"] else ""
        raise UsageError(f"this onnxruntime build has no {name}; it has: {have}.{hint}")
    failure = _probe(name)
    if failure is not None:
        raise UsageError(f"{name} does not work on this machine: {failure}. Use --provider cpu.")
    return Provider(name, "asked for")


def provider_arguments(name: str) -> list[Any]:
    """The ``providers`` argument of a session: this provider in full precision, and nothing behind it but the CPU."""
    if name in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        _preload_cuda()
    first: Any = (name, _OPTIONS[name]) if name in _OPTIONS else name
    return [first] if name == _SHORT["cpu"] else [first, _SHORT["cpu"]]


def _short(name: str) -> str:
    return next((k for k, v in _SHORT.items() if v == name), name)


@functools.cache
def _preload_cuda() -> None:
    """Let onnxruntime use the CUDA libraries that torch's wheel brings."""
    preload = getattr(onnxruntime_module(), "preload_dlls", None)
    if preload is not None:
        preload()


@functools.cache
def _probe(name: str) -> str | None:
    """Run one node on a provider; ``None`` when that worked, else why not."""
    import numpy as np
    from onnx import TensorProto, helper

    ort = onnxruntime_module()
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y")]
    graph = helper.make_graph([node], "probe", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=provider_arguments(name))
        if session.get_providers()[0] != name:
            return "onnxruntime could not load it and fell back to another"
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # noqa: BLE001 - providers fail in their own ways; the reason is passed on
        return str(error).splitlines()[0][:200]
    return None
