"""Why this decision? One file per explanation method, one line here for each.

A method's module is imported when the method is used, so that listing the names costs nothing.
"""

from __future__ import annotations

import importlib

from onnxvis.errors import UsageError, did_you_mean
from onnxvis.methods.base import Attribution, LayerChoice, Method, NoOptions, Task, option

__all__ = ["Attribution", "LayerChoice", "Method", "NoOptions", "Task", "get_method", "method_names", "option"]

_MODULES = {
    "grad-cam": "grad_cam",
    "cam": "cam",
    "grad-cam++": "grad_cam_pp",
    "layer-cam": "layer_cam",
    "hires-cam": "hires_cam",
    "xgrad-cam": "xgrad_cam",
    "eigen-cam": "eigen_cam",
    "score-cam": "score_cam",
    "ablation-cam": "ablation_cam",
    "saliency": "saliency",
    "smoothgrad": "smoothgrad",
    "integrated-gradients": "integrated_gradients",
    "guided-backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "guided-grad-cam": "guided_grad_cam",
    "zfnet-deconvnet": "zfnet_deconvnet",
    "occlusion": "occlusion",
    "rise": "rise",
    "scouter": "scouter",
}


def method_names() -> tuple[str, ...]:
    """The names of all methods, in the order they are listed to people."""
    return tuple(_MODULES)


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none; the nearest names are suggested.
    """
    if not isinstance(name, str):
        raise UsageError(f"a method is one name, not {name!r}. The methods: {', '.join(_MODULES)}.")
    key = name.strip().lower().replace("_", "-")
    if key not in _MODULES:
        hint = did_you_mean(key, _MODULES)
        raise UsageError(f"there is no method {name!r}.{hint} The methods: {', '.join(_MODULES)}.")
    module = importlib.import_module(f"onnxvis.methods.{_MODULES[key]}")
    method: Method = module.METHOD
    return method
