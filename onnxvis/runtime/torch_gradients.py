"""Gradients through the torch conversion of the canonical graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxvis.errors import ConversionError
from onnxvis.runtime.gradients import Gradients, rule_notes

if TYPE_CHECKING:
    import torch

    from onnxvis.converters import TorchGraph

__all__ = ["TorchGradients"]


class TorchGradients:
    """The torch backend: converted once, on the GPU when the model runs there."""

    name = "torch"

    def __init__(self, model: onnx.ModelProto, device: str = "cpu", float64: bool = False) -> None:
        """Convert.

        Args:
            model: the graph in the canonical dialect, weights in memory.
            device: ``cpu`` or ``cuda``.
            float64: compute in double precision (for checks; several times slower).

        Raises:
            ConversionError: an operator has no converter; all of them are named.
        """
        import torch

        from onnxvis.converters import convert

        self._dtype = torch.float64 if float64 else torch.float32
        self._device = torch.device(device)
        self._graph = convert(model)
        self._graph.to_dtype(self._dtype)
        self._graph.to(self._device)

    @property
    def graph(self) -> TorchGraph:
        """The converted graph, for whoever trains its weights."""
        return self._graph

    def vjp(
        self,
        feeds: Mapping[str, np.ndarray],
        output: str,
        cotangents: Sequence[np.ndarray],
        wrt: Sequence[str],
        rule: str = "backprop",
    ) -> Gradients:
        """See :class:`~onnxvis.runtime.gradients.GradientBackend`."""
        import torch

        from onnxvis.converters import ReluRule

        tensors = {name: self._tensor(array) for name, array in feeds.items()}
        for name in wrt:
            if name in tensors:
                tensors[name].requires_grad_(True)
        fetch = list(dict.fromkeys([output, *wrt]))
        with torch.enable_grad():
            results = self._graph(tensors, fetch, relu=ReluRule(rule), watch=[n for n in wrt if n not in tensors])
        score = results[output]
        if not score.requires_grad:
            raise ConversionError(
                f"{output!r} does not depend differentiably on {', '.join(map(repr, wrt))}: an operator between them "
                "has no derivative. A perturbation method (occlusion) needs none."
            )
        variables = [results[name] for name in wrt]
        grads = []
        for number, cotangent in enumerate(cotangents):
            seed = self._tensor(np.asarray(cotangent)).reshape(score.shape)
            more = number + 1 < len(cotangents)
            found = torch.autograd.grad(score, variables, seed, retain_graph=more, allow_unused=True)
            grads.append(
                {
                    name: self._array(torch.zeros_like(v) if g is None else g)
                    for name, v, g in zip(wrt, variables, found, strict=True)
                }
            )
        values = {name: self._array(results[name]) for name in wrt}
        return Gradients(self._array(score), values, grads, self._notes(rule, feeds, output))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(np.array(array, copy=True)).to(self._device)
        if not tensor.is_floating_point():
            return tensor
        # On a CPU torch convolves float32 pictures faster with their channels last; the values are the same.
        last = tensor.ndim == 4 and self._device.type == "cpu" and self._dtype == torch.float32
        return tensor.to(self._dtype, memory_format=torch.channels_last if last else torch.preserve_format)

    @staticmethod
    def _array(tensor: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(tensor.detach().cpu().numpy())

    def _notes(self, rule: str, feeds: Mapping[str, np.ndarray], output: str) -> tuple[str, ...]:
        """What the rule did to the activations between the feeds and the output."""
        if rule == "backprop":
            return ()
        crossed = self._graph.activations_between(feeds, output)
        ruled = Counter(a.op_type for a in crossed if a.treatment == "rule")
        plain = Counter(a.op_type for a in crossed if a.treatment != "rule")
        return rule_notes(rule, ruled, plain)
