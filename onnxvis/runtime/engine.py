"""Everything that runs for one model: the deployed graph, its parts, and gradients.

Predictions and forward-only methods run the file as it is; gradients run the canonical twin, and
:mod:`onnxvis.runtime.parity` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from onnxvis.errors import ModelError, OnnxvisError
from onnxvis.graph.batch import fixed_batch, free_batch
from onnxvis.graph.canonical import Canonical
from onnxvis.runtime.batching import TOLERANCES, BatchPlan, Planner, compare, sample_images
from onnxvis.runtime.choose_gradients import check_choice, gradient_backend
from onnxvis.runtime.gradients import GradientBackend, Gradients
from onnxvis.runtime.parity import OUTPUT_TOLERANCE, GradientCheck, Parity, check_gradient, output_error, untied
from onnxvis.runtime.providers import Provider
from onnxvis.runtime.session import Sessions

__all__ = ["Engine"]

_INTEGER = {"QuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm"}
_OUTPUT_TOLERANCES = {"float32": OUTPUT_TOLERANCE, "float16": 1e-2, "int8": 5e-2}
_NOT_DIFFERENCED = {
    "int8": "the file is quantized: it changes in steps, so finite differences of it say nothing; the gradient is "
    "that of straight-through rounding",
    "float16": "the file computes in half precision, whose rounding is larger than a finite step; the gradient is "
    "that of its float32 twin",
}
_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def precision_of(model: onnx.ModelProto) -> str:
    """What the file computes in: "int8", "float16" or "float32"."""
    if any(node.op_type in _INTEGER or node.op_type.startswith("QLinear") for node in model.graph.node):
        return "int8"
    kinds = {t.data_type for t in model.graph.initializer}
    kinds |= {a.t.data_type for n in model.graph.node if n.op_type == "Constant" for a in n.attribute}
    kinds |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return "float16" if kinds & set(_HALF) else "float32"


class Engine:
    """Runs one deployed graph and differentiates its canonical twin.

    Args:
        deployed: the graph of the file (weights possibly external).
        canonical: returns the canonical form with weights in memory; called when first needed.
        provider: the execution provider.
        data_folder: of external weights.
        image_input: name of the input that takes the image.
        constants: values of the other inputs, fed at every run.
        gradients: who computes gradients: "auto", "torch" or "onnx".
    """

    def __init__(
        self,
        deployed: onnx.ModelProto,
        canonical: Callable[[], Canonical],
        provider: Provider,
        data_folder: Path | None,
        image_input: str,
        constants: Mapping[str, np.ndarray],
        gradients: str = "auto",
    ) -> None:
        self.provider = provider
        self.gradient_choice = check_choice(gradients)
        self.image_input = image_input
        self.constants = dict(constants)
        self._canonical = canonical
        self._deployed = deployed
        self._plain = Sessions(deployed, provider, data_folder)
        self._batched = self._plain
        self._plan: BatchPlan | None = None
        self.precision = precision_of(deployed)
        self._planner = Planner(
            self._plain,
            image_input,
            self.precision,
            self.constants,
            lambda: canonical().model,
            lambda sessions, x: self._run_whole(sessions, x, ()),
            lambda x: self._forward_fixed(x, (), self._fixed_batch()),
        )
        self._backends: dict[bool, GradientBackend] = {}
        self._checked: dict[tuple[str, ...], GradientCheck | None] = {}
        self._twin_sessions: Sessions | None = None
        self._twin_graph: onnx.ModelProto | None = None
        self._twin_refusal: str | None = None

    # --- forward ---------------------------------------------------------------------------------

    def batch_plan(self, sample: np.ndarray) -> BatchPlan:
        """How batches run on this graph; found and verified once, on noisy copies of ``sample`` ``(1, ...)``."""
        if self._plan is None:
            self._plan, self._batched = self._planner.plan(sample)
        return self._plan

    def batched(self, sample: np.ndarray) -> Sessions:
        """Sessions of the deployed graph with a free batch axis; of the graph as it is where images run one by one."""
        self.batch_plan(sample)
        return self._batched

    def forward(self, x: np.ndarray, tensors: Sequence[str] = (), batch_size: int = 8) -> dict[str, np.ndarray]:
        """Run the deployed graph on a batch and return tensors by name.

        Args:
            x: images ``(N, ...)`` in the dtype of the model's input.
            tensors: what to return; none means the graph's own outputs, from the unedited session.
            batch_size: how many images run at once, where the graph allows batches.

        Raises:
            ModelError: the graph cannot run on this input, or a tensor has no batch axis.
        """
        twins = [name for name in tensors if name in self._twins()] if tensors else []
        if twins:
            own = [name for name in tensors if name not in twins]
            found = self.forward(x, own, batch_size) if own else {}
            return found | _joined([self._twin(x[i : i + 1], twins) for i in range(len(x))])
        if len(x) == 1:
            fixed = self._fixed_batch()
            return self._forward_fixed(x, tensors, fixed)
        plan = self.batch_plan(x[:1])
        if plan.kind == "looped":
            return self._forward_fixed(x, tensors, plan.fixed)
        chunks = [self._run_whole(self._batched, x[i : i + batch_size], tensors) for i in range(0, len(x), batch_size)]
        return _joined(chunks)

    def _twins(self) -> frozenset[str]:
        """Tensors of the rewritten graph only; float32 files of current exporters have none worth asking for."""
        return self._canonical().twins

    def _twin(self, x: np.ndarray, tensors: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the rewritten graph for tensors that the file does not have."""
        if self._twin_sessions is None:
            # Without optimization: fused integer kernels would round differently from what is differentiated.
            self._twin_sessions = Sessions(self._canonical().model, self.provider, optimize=False)
        sessions = self._twin_sessions
        declared = next(v for v in sessions.model.graph.input if v.name == self.image_input)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
        feeds = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in self.constants.items()}
        copies = max(1, self._fixed_batch())
        found = sessions.run({**feeds, self.image_input: np.repeat(x.astype(dtype), copies, axis=0)}, tensors)
        return {name: array[:1] if copies > 1 else array for name, array in found.items()}

    def tail(self, feeds: Mapping[str, np.ndarray], output: str, batch_size: int = 8) -> np.ndarray:
        """Run the deployed graph from intermediate tensors to ``output``.

        Args:
            feeds: tensors at the cut, all with the same number of rows ``M``; the image input may be
                among them, with ``M`` rows or one, where the part still needs it.
            output: the tensor to compute.
            batch_size: rows at once.

        Returns:
            ``output`` for every row, ``(M, ...)``.
        """
        rows = max(len(a) for n, a in feeds.items() if n != self.image_input or len(feeds) == 1)
        names = tuple(n for n in feeds if n != self.image_input)
        if self._plan is None and rows > 2 and self.image_input in feeds:
            self.batch_plan(feeds[self.image_input][:1])
        batches = self._plan is not None and self._plan.kind != "looped"
        alone = (self._plain, 1, max(1, self._fixed_batch()))
        sessions, step, copies = (self._batched, batch_size, 1) if batches else alone
        parts = []
        for start in range(0, rows, step):
            count = min(step, rows - start)
            part = {
                n: np.repeat(a[start : start + count], copies, axis=0)
                if len(a) == rows
                else np.repeat(a, count * copies, axis=0)
                for n, a in feeds.items()
            }
            parts.append(sessions.run({**self.constants, **part}, (output,), names)[output][:count])
        return np.concatenate(parts)

    def _fixed_batch(self) -> int:
        return fixed_batch(self._deployed, self.image_input)

    def _forward_fixed(self, x: np.ndarray, tensors: Sequence[str], fixed: int) -> dict[str, np.ndarray]:
        """Run image by image on the unedited graph; a fixed batch above 1 is filled with copies."""
        chunks = []
        for row in range(len(x)):
            one = x[row : row + 1]
            result = self._run_whole(self._plain, np.repeat(one, fixed, axis=0) if fixed > 1 else one, tensors)
            chunks.append({n: a[:1] if fixed > 1 else a for n, a in result.items()})
        return _joined(chunks)

    def _run_whole(self, sessions: Sessions, x: np.ndarray, tensors: Sequence[str]) -> dict[str, np.ndarray]:
        return sessions.run({**self.constants, self.image_input: x}, tensors)

    # --- gradients -------------------------------------------------------------------------------

    def gradients(
        self,
        feeds: Mapping[str, np.ndarray],
        output: str,
        cotangents: Sequence[np.ndarray],
        wrt: Sequence[str],
        rule: str = "backprop",
        float64: bool = False,
    ) -> Gradients:
        """Vector-Jacobian products of the canonical graph; see :mod:`onnxvis.runtime.gradients`.

        Where the file fixes the batch and the graph has that number baked in, images run one by one.
        """
        rows, fixed = len(next(iter(feeds.values()))), self._fixed_batch()
        refusal = self._batch_refusal(feeds, output, float64) if rows > 1 or fixed > 1 else ""
        backend = self.backend(float64)
        if not refusal:
            return backend.vjp({**self.constants, **feeds}, output, cotangents, wrt, rule)
        parts = [
            self._one_row(
                backend,
                {n: a[i : i + 1] for n, a in feeds.items()},
                output,
                [c[i : i + 1] for c in cotangents],
                wrt,
                rule,
            )
            for i in range(rows)
        ]
        grads = [_joined([part.grads[k] for part in parts]) for k in range(len(cotangents))]
        values = _joined([part.values for part in parts])
        return Gradients(np.concatenate([part.output for part in parts]), values, grads, (*parts[0].notes, refusal))

    def _batch_refusal(self, feeds: Mapping[str, np.ndarray], output: str, float64: bool) -> str:
        """Why the canonical graph has to run image by image, "" where it runs any batch; found once, by trying."""
        if self._twin_refusal is None:
            name = self.image_input
            if name not in feeds:
                known = self._plan is not None and self._plan.kind == "free"
                return "" if known or not self._fixed_batch() else f"gradients run image by image, for want of {name!r}"
            sample = feeds[name][:1]
            plan = self.batch_plan(sample)
            failure = plan.reason if plan.kind == "looped" else None
            if plan.kind not in ("free", "looped"):
                failure = self._free_twin(plan, sample, output, float64)
            self._twin_refusal = f"gradients run image by image: {failure}" if failure else ""
        return self._twin_refusal

    def _free_twin(self, plan: BatchPlan, sample: np.ndarray, output: str, float64: bool) -> str | None:
        """Let the canonical graph run any batch: as it is, or rewritten. Returns why it cannot, if so."""
        failure = None if plan.edits else self._twin_failure(sample, output, float64)
        if failure is None and not plan.edits:
            return None
        try:
            edits = plan.edits or self._planner.edits(sample)
        except OnnxvisError as error:
            return str(error)
        graph = self._canonical().model
        self._twin_graph = free_batch(graph, self.image_input, edits)
        self._backends.clear()
        failure = self._twin_failure(sample, output, float64)
        if failure is not None:
            self._twin_graph = None
            self._backends.clear()
        return failure

    def _twin_failure(self, sample: np.ndarray, output: str, float64: bool) -> str | None:
        backend, name = self.backend(float64), self.image_input
        images = sample_images(sample, 3)
        alone = np.concatenate([self._one_row(backend, {name: x[None]}, output, (), (name,)).output for x in images])
        for count in (3, 2):  # a baked batch fits one of the two at most
            try:
                together = backend.vjp({**self.constants, name: images[:count]}, output, (), (name,)).output
            except OnnxvisError as error:
                return f"a batch fails ({str(error)[:160]})"
            expected = alone[: len(alone) // 3 * count]
            failure = compare({output: together}, {output: expected}, count, TOLERANCES[self.precision])
            if failure is not None:
                return failure
        return None

    def _one_row(
        self,
        backend: GradientBackend,
        feeds: Mapping[str, np.ndarray],
        output: str,
        cotangents: Sequence[np.ndarray],
        wrt: Sequence[str],
        rule: str = "backprop",
    ) -> Gradients:
        """One image on a graph with a fixed batch: the other places hold copies, which count for nothing."""
        copies = max(1, self._fixed_batch())
        filled = {n: np.repeat(a, copies, axis=0) for n, a in feeds.items()}
        seeds = [np.concatenate([c, *[np.zeros_like(c)] * (copies - 1)]) for c in cotangents]
        found = backend.vjp({**self.constants, **filled}, output, seeds, wrt, rule)
        grads = [{n: g[:1] for n, g in per_seed.items()} for per_seed in found.grads]
        return Gradients(found.output[:1], {n: a[:1] for n, a in found.values.items()}, grads, found.notes)

    def backend(self, float64: bool = False) -> GradientBackend:
        """The gradient backend, built when first needed.

        Raises:
            ConversionError: the graph cannot be differentiated.
        """
        if float64 not in self._backends:
            graph = self._twin_graph if self._twin_graph is not None else self._canonical().model
            self._backends[float64] = gradient_backend(self.gradient_choice, graph, self.provider, float64)
        return self._backends[float64]

    def parity(
        self,
        converted: np.ndarray,
        deployed: np.ndarray,
        check: Callable[[], GradientCheck | None] | None,
        key: tuple[str, ...],
        float64: bool = False,
    ) -> Parity:
        """The parity record of one image.

        Args:
            converted: logits of the converted model.
            deployed: logits of the deployed graph, on the same input.
            check: makes the finite-difference check; run once for each ``key`` (a gradient's tensors) and
                then reused, since it costs several forward passes.
            key: what was differentiated with respect to what.
            float64: whether the converted model ran in double precision.
        """
        backend = self.backend(float64)
        note = _NOT_DIFFERENCED.get(self.precision, "")
        if key not in self._checked:
            self._checked[key] = check() if check is not None and not note else None
        name = f"{backend.name} (float64)" if float64 else backend.name
        error = output_error(converted, deployed)
        return Parity(name, error, self.output_tolerance, self._checked[key], note=note)

    @property
    def output_tolerance(self) -> float:
        """How far the logits of the converted model may be from the file's: its own rounding."""
        return _OUTPUT_TOLERANCES[self.precision]

    def difference_check(
        self,
        feeds: Mapping[str, np.ndarray],
        wrt: str,
        output: str,
        cotangent: np.ndarray,
        on: str,
        float64: bool = False,
    ) -> GradientCheck | None:
        """The gradient at a point against finite differences of the deployed graph there.

        The point is ``feeds[wrt]`` plus a little noise: where a picture is flat, many positions of a max
        pool tie, and at a tie a gradient is one choice of several, which no difference can confirm.

        Args:
            feeds: one image's tensors at the cut, one row each.
            wrt: the one to move.
            output: the differentiated tensor.
            cotangent: d score / d output, of one row's shape.
            on: words for the record.
            float64: whether the converted model runs in double precision.
        """
        weights = np.asarray(cotangent, np.float64).reshape(-1)
        point = untied(feeds[wrt])
        moved = {n: a if a.dtype.kind != "f" else a.astype(np.float32) for n, a in {**feeds, wrt: point}.items()}
        at_point = self.gradients(moved, output, [np.asarray(cotangent)[None]], (wrt,), float64=float64)
        magnitude = float(np.abs(at_point.output).max(initial=0.0))

        def score(points: np.ndarray) -> np.ndarray:
            values = self._tail_rows({**feeds, wrt: points}, output)
            return np.asarray(values.reshape(len(values), -1).astype(np.float64) @ weights)

        return check_gradient(score, point[0], at_point.grads[0][wrt][0], magnitude, on)

    def _tail_rows(self, feeds: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        if set(feeds) == {self.image_input}:
            return self.forward(feeds[self.image_input], (output,))[output]
        return self.tail(feeds, output)


def _joined(chunks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(chunks) == 1:
        return dict(chunks[0])
    scalars = [n for n, a in chunks[0].items() if a.ndim == 0]
    if scalars:
        raise ModelError(f"tensor {scalars[0]!r} has no batch axis, so it cannot be computed for several images.")
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
