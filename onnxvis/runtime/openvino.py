"""OpenVINO as a plug-in of the stock onnxruntime: found, registered once, and its CPU device.

The plug-in comes as a package of its own (the extra ``bf16``) and is registered by its library, not by its name. Left
to itself it computes in bfloat16 wherever the processor can: :mod:`~onnxvis.runtime.providers` always states the
precision.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from onnxvis.errors import DependencyError, UsageError

__all__ = ["NAME", "device", "has_bfloat16", "registered_device"]

NAME = "OpenVINOExecutionProvider"
_PACKAGE = "onnxruntime_ep_openvino"
_REGISTERED_AS = "onnxvis-openvino"
_INSTALL = "Install it with `pip install onnxvis[bf16]`."


def device(ort: Any) -> Any:
    """The plug-in's CPU device.

    Args:
        ort: the onnxruntime package.

    Raises:
        DependencyError: the plug-in is not installed, or this onnxruntime is too old for plug-ins.
        UsageError: it offers no device for this machine's processor.
    """
    found = registered_device(ort)
    if found is not None:
        return found
    reason = _register(ort)
    if reason:
        raise DependencyError(reason)
    vendor = next((d.device.vendor for d in ort.get_ep_devices() if d.ep_name == "CPUExecutionProvider"), "")
    raise UsageError(
        f"OpenVINO's plug-in offers no device for this machine's processor{f' ({vendor})' if vendor else ''}: it "
        "serves Intel's. Leave precision and provider at their defaults: float32 on onnxruntime's own CPU provider."
    )


def registered_device(ort: Any) -> Any | None:
    """The plug-in's CPU device, None where the plug-in is missing or serves no processor of this machine."""
    if _register(ort):
        return None
    return next(
        (d for d in ort.get_ep_devices() if d.ep_name == NAME and d.ep_metadata.get("ov_device") == "CPU"), None
    )


def has_bfloat16(found: Any) -> bool:
    """Whether a device has instructions for bfloat16, as OpenVINO says."""
    return "BF16" in str(found.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "")).split()


@functools.cache
def _register(ort: Any) -> str:
    """Register the plug-in's library, once; "" or why that is impossible."""
    if not hasattr(ort, "register_execution_provider_library"):
        return f"onnxruntime {ort.__version__} knows no plug-in providers: OpenVINO's needs 1.23 or newer."
    try:
        plugin = importlib.import_module(_PACKAGE)
    except ImportError:
        return f"OpenVINO's execution provider ({_PACKAGE.replace('_', '-')}) is not installed. {_INSTALL}"
    try:
        ort.register_execution_provider_library(_REGISTERED_AS, plugin.get_library_path())
    except Exception as error:  # noqa: BLE001 - onnxruntime raises its own kinds; the reason is passed on
        return f"OpenVINO's execution provider cannot be loaded: {str(error).splitlines()[0][:200]}"
    return ""
