"""Execution providers: which one runs the model, and why.

A provider that onnxruntime lists may still not work on the machine (a CUDA build without a GPU lists
CUDA), so a provider is believed only after it has run a one-node graph, and run it in float32.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from onnxvis.errors import DependencyError, UsageError, did_you_mean
from onnxvis.runtime import openvino

__all__ = ["Provider", "bfloat16_provider", "choose_provider", "onnxruntime_module", "provider_arguments"]

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
}
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_TWELVE_BITS = 1.0 + 2.0**-12  # bfloat16 keeps 8 bits of it, TF32 11


@dataclass(frozen=True)
class Provider:
    """An execution provider that has been seen to work.

    Attributes:
        name: onnxruntime's name, such as ``CPUExecutionProvider``.
        reason: one sentence: why this one.
        precision: what float32 graphs are computed in: "float32", or "bfloat16" where that was asked for.
    """

    name: str
    reason: str
    precision: str = "float32"

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
    ort = onnxruntime_module()
    listed = ort.get_available_providers()
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
    if name == openvino.NAME and name not in listed:
        openvino.device(ort)
    elif name not in listed:
        have = ", ".join(_short(n) for n in listed)
        hint = " Install `onnxvis[gpu]`." if name == _SHORT["cuda"] else ""
        raise UsageError(f"this onnxruntime build has no {name}; it has: {have}.{hint}")
    failure = _probe(name)
    if failure is not None:
        raise UsageError(f"{name} does not work on this machine: {failure}. Use --provider cpu.")
    return Provider(name, "asked for")


def bfloat16_provider() -> Provider:
    """OpenVINO's plug-in, computing in bfloat16: never by default, only where a user asks for it.

    Raises:
        DependencyError: the plug-in is not installed.
        UsageError: it does not serve this machine's processor, or that computes nothing in bfloat16.
    """
    ort = onnxruntime_module()
    device = openvino.device(ort)
    if not openvino.has_bfloat16(device):
        raise UsageError(
            "this processor has no bfloat16 instructions, so that precision=bf16 would save nothing. Leave it out: "
            "float32 is the default."
        )
    return Provider(openvino.NAME, "asked for by precision=bf16", "bfloat16")


def provider_arguments(name: str, precision: str = "float32") -> list[Any]:
    """The ``providers`` argument of a session: this provider in full precision, and nothing behind it but the CPU."""
    if name in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        _preload_cuda()
    options = _options(name, precision)
    first: Any = (name, options) if options else name
    return [first] if name == _SHORT["cpu"] else [first, _SHORT["cpu"]]


def session_arguments(provider: Provider, options: Any) -> dict[str, Any]:
    """Keyword arguments that make a session run on a provider.

    A plug-in is not known by name: it is added to ``options`` by its device.
    """
    ort = onnxruntime_module()
    device = openvino.registered_device(ort) if provider.name == openvino.NAME else None
    if device is None:
        return {"providers": provider_arguments(provider.name, provider.precision)}
    options.add_provider_for_devices([device], _options(provider.name, provider.precision))
    return {}


def _options(name: str, precision: str) -> dict[str, str]:
    """Options of a provider; OpenVINO's is told its precision in so many words, as it takes bfloat16 by itself."""
    if name == openvino.NAME:
        return {"load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": _HINTS[precision]}})}
    return dict(_OPTIONS.get(name, {}))


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
    """Run a small convolution on a provider; ``None`` when that worked in full precision, else why not."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    ort = onnxruntime_module()
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, 8, 8]) for n in ("x", "y")]
    weight = numpy_helper.from_array(np.full((16, 16, 3, 3), 1 / 144, np.float32), "w")
    graph = helper.make_graph([node], "probe", info[:1], info[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        chosen = session_arguments(Provider(name, ""), options)
        session = ort.InferenceSession(model.SerializeToString(), options, **chosen)
        if session.get_providers()[0] != name:
            return "onnxruntime could not load it and fell back to another"
        found = session.run(None, {"x": np.full((1, 16, 8, 8), _TWELVE_BITS, np.float32)})[0]
    except Exception as error:  # noqa: BLE001 - providers fail in their own ways; the reason is passed on
        return str(error).splitlines()[0][:200]
    off = float(np.abs(found[0, :, 1:-1, 1:-1] - _TWELVE_BITS).max())
    return None if off < 2.0**-14 else f"it does not compute in float32 (error {off:.0e} on a small convolution)"
