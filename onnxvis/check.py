"""What works on this file, tried out and not guessed: the page that people paste into a bug report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import OnnxvisError
from onnxvis.explaining import Settings, explain_prepared, request
from onnxvis.methods import get_method, method_names
from onnxvis.noise import smooth_noise
from onnxvis.preprocessing import Prepared
from onnxvis.provenance import versions
from onnxvis.runtime.parity import output_error
from onnxvis.runtime.session import Sessions

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model

__all__ = ["CheckReport", "Finding", "MethodTrial", "check"]

_REPEATS = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: what.
        ok: whether it is as it should be; ``None`` where it is only a statement.
        value: the answer, in words or figures.
        remark: why, or what to do.
    """

    name: str
    ok: bool | None
    value: str
    remark: str = ""


@dataclass(frozen=True)
class MethodTrial:
    """A method tried on this file.

    Attributes:
        method: its name.
        works: whether it gave a map.
        reason: why not, with the remedy; or which layer it worked at.
        parity: the agreement of converted and deployed model, where it needs a gradient.
        seconds: time of the trial.
    """

    method: str
    works: bool
    reason: str
    parity: str
    seconds: float


@dataclass(frozen=True)
class CheckReport:
    """Everything `onnxvis check` found."""

    model: dict[str, Any]
    findings: tuple[Finding, ...]
    methods: tuple[MethodTrial, ...]
    rewrites: dict[str, int]
    versions: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether at least one method works."""
        return any(trial.works for trial in self.methods)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "usable": self.usable}


def check(model: Model, prepared: Prepared | None = None) -> CheckReport:
    """Try a model out.

    Args:
        model: the model.
        prepared: a picture to try it on; ``None`` takes smooth noise of the input's shape. Parity on a
            real picture says more.
    """
    sample = prepared or smooth_noise(model)
    findings = [Finding("input tried", None, sample.picture.name if prepared and sample.picture else "smooth noise")]
    for part in (_forward, _logits, _head, _batch, _rewritten, _converted, _speed):
        findings.append(_guarded(part, model, sample))
    trials = [_trial(model, name, sample) for name in method_names()]
    return CheckReport(
        model.describe() | {"precision": model.engine.precision, "layout": model.layout},
        tuple(findings),
        tuple(trials),
        {a.name: a.count for a in model.canonical.applied},
        versions(),
    )


def _guarded(part: Callable[[Model, Prepared], Finding], model: Model, sample: Prepared) -> Finding:
    try:
        return part(model, sample)
    except OnnxvisError as error:
        return Finding(part.__name__.strip("_"), False, "failed", str(error))


def _forward(model: Model, sample: Prepared) -> Finding:
    outputs = model.engine.forward(sample.tensor)
    shapes = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in outputs.items())
    finite = all(np.isfinite(a).all() for a in outputs.values() if a.dtype.kind == "f")
    return Finding("forward pass", finite, shapes, "" if finite else "an output holds NaN or infinity")


def _logits(model: Model, sample: Prepared) -> Finding:
    return Finding("explained", None, f"{model.logits.tensor} ({model.logits.kind})", model.logits.reason)


def _head(model: Model, sample: Prepared) -> Finding:
    return Finding("head", None, f"{model.head.kind}, layer {model.head.cam_layer}", model.head.reason)


def _batch(model: Model, sample: Prepared) -> Finding:
    plan = model.engine.batch_plan(sample.tensor)
    return Finding("batch", plan.kind != "looped", plan.kind, plan.reason)


def _rewritten(model: Model, sample: Prepared) -> Finding:
    """The rewritten graph against the deployed one, both in onnxruntime."""
    name = model.logits.tensor
    graph = model.canonical.model
    declared = next(v for v in graph.graph.input if v.name == model.image_input.name)
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    copies = model.example_shape()[0]
    x = np.repeat(sample.tensor.astype(dtype), copies, axis=0)  # a file that fixes its batch wants all of it
    feeds = {**model.engine.constants, model.image_input.name: x}
    rewritten = Sessions(graph, model.provider, optimize=False).run(feeds, (name,))[name]
    if copies > 1:
        rewritten = rewritten[:1]
    error = output_error(rewritten, model.engine.forward(sample.tensor, (name,))[name])
    tolerance = model.engine.output_tolerance
    return Finding("rewritten graph", error <= tolerance, f"{error:.1e} relative to the file's own answer",
                   f"opset {model.canonical.opset}; tolerance {tolerance:g} ({model.engine.precision})")  # fmt: skip


def _converted(model: Model, sample: Prepared) -> Finding:
    name, image = model.logits.tensor, model.image_input.name
    deployed = model.engine.forward(sample.tensor, (name,))[name]
    x = sample.tensor if sample.tensor.dtype == np.float64 else sample.tensor.astype(np.float32)
    found = model.engine.gradients({image: x}, name, [np.ones_like(deployed, dtype=np.float32)], (image,))
    error = output_error(found.output, deployed)
    zero = not np.any(found.grads[0][image])
    remark = "the gradient with respect to the picture is exactly zero on this input" if zero else ""
    tolerance = model.engine.output_tolerance
    return Finding("torch conversion", error <= tolerance, f"{error:.1e} relative to the file's own answer", remark)


def _speed(model: Model, sample: Prepared) -> Finding:
    model.engine.forward(sample.tensor)
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        model.engine.forward(sample.tensor)
        times.append(time.perf_counter() - began)
    return Finding("one forward pass", None, f"{statistics.median(times) * 1e3:.1f} ms on {model.provider.name}",
                   f"median of {_REPEATS}, one picture")  # fmt: skip


def _trial(model: Model, name: str, sample: Prepared) -> MethodTrial:
    began = time.perf_counter()
    try:
        chosen = request(model, name, get_method(name).quick)
        found: Explanation = explain_prepared(model, [sample], [chosen], [("top1",)], Settings())[0][0][0]
    except OnnxvisError as error:
        return MethodTrial(name, False, str(error), "", time.perf_counter() - began)
    layer = f"at layer {found.layer}" if found.layer else ""
    parity = found.parity.sentence() if found.parity else ""
    return MethodTrial(name, True, layer, parity, time.perf_counter() - began)
