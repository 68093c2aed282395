"""Gradients as ONNX operators, run by onnxruntime: no torch is needed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxvis.errors import ConversionError, LayerError, ModelError, UnsupportedOperatorError, did_you_mean
from onnxvis.graph.canonical.refusals import refusal
from onnxvis.graph.cut import cut
from onnxvis.graph.gradient import build_vjp, tape_for
from onnxvis.graph.gradient.activation import ACTIVATIONS, rectifier
from onnxvis.graph.gradient.double import in_double
from onnxvis.graph.gradient.shapes import infer
from onnxvis.graph.gradient.vjp import call_of
from onnxvis.graph.index import GraphIndex
from onnxvis.runtime.gradients import Gradients, rule_notes
from onnxvis.runtime.providers import Provider, choose_provider
from onnxvis.runtime.session import open_session, translate

__all__ = ["OnnxGradients"]

_COTANGENT = "onnxvis/cotangent"
_KEPT_SESSIONS = 8


@dataclass(frozen=True, eq=False)
class _Program:
    """A session, with what there is to say about it."""

    session: Any
    inputs: frozenset[str]
    dtypes: Mapping[str, np.dtype[Any]]
    notes: tuple[str, ...]


class OnnxGradients:
    """The onnxruntime backend: one session for each output, set of tensors and ReLU rule.

    Each cotangent runs the forward pass again, so several targets cost more here than in torch; a tail after a
    late layer costs next to nothing either way.
    """

    name = "onnx"

    def __init__(
        self, model: onnx.ModelProto, provider: Provider | None = None, float64: bool = False, reason: str = ""
    ) -> None:
        """Nothing is built before the first gradient.

        Args:
            model: the graph in the canonical dialect, weights in memory.
            provider: where sessions run; the CPU by default.
            float64: compute in double precision. onnxruntime's CPU has no such kernel for Conv, AveragePool and
                several activations: a graph with one of them is refused by name.
            reason: why this backend and not the usual one, where it was not asked for; it becomes part of ``name``.

        Raises:
            ConversionError: the graph has no gradients whatever the backend, or its operator set is too old.
        """
        refused = refusal(model)
        if refused is not None:
            raise ConversionError(f"no gradients on this file: {refused}")
        self.name = f"onnx ({reason})" if reason else "onnx"
        self._float64 = float64
        self._provider = provider if provider is not None else choose_provider("cpu")
        self._model = in_double(model) if float64 else model
        tape_for(self._model)
        self._known = infer(self._model)
        self._programs: OrderedDict[tuple[Any, ...], _Program] = OrderedDict()

    def vjp(
        self,
        feeds: Mapping[str, np.ndarray],
        output: str,
        cotangents: Sequence[np.ndarray],
        wrt: Sequence[str],
        rule: str = "backprop",
    ) -> Gradients:
        """See :class:`~onnxvis.runtime.gradients.GradientBackend`."""
        program = self._program(tuple(feeds), output, tuple(wrt), rule if cotangents else "")
        given = {n: self._typed(program, n, a) for n, a in feeds.items() if n in program.inputs}
        names = list(dict.fromkeys([output, *wrt]))
        missing = {name: np.asarray(feeds[name]) for name in names if name in feeds}
        fetched = [name for name in names if name not in missing]
        if not cotangents:
            values = dict(zip(fetched, self._run(program, given, fetched), strict=True)) | missing
            return Gradients(values[output], {name: values[name] for name in wrt}, [])
        grads: list[Mapping[str, np.ndarray]] = []
        values = dict(missing)
        targets = [f"gradient/{name}" for name in wrt]
        for cotangent in cotangents:
            seed = np.asarray(cotangent)
            wanted = [*targets, *(fetched if not grads else ())]
            results = self._run(program, {**given, _COTANGENT: self._typed(program, _COTANGENT, seed)}, wanted)
            found = dict(zip(wanted, results, strict=True))
            values.update({name: found[name] for name in fetched if name in found})
            grads.append({name: found[target] for name, target in zip(wrt, targets, strict=True)})
        return Gradients(values[output], {name: values[name] for name in wrt}, grads, program.notes)

    def _typed(self, program: _Program, name: str, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, dtype=program.dtypes[name])

    def _run(self, program: _Program, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        try:
            return [np.asarray(array) for array in program.session.run(list(names), dict(feeds))] if names else []
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise translate(error, "onnxruntime cannot compute the gradient on this input") from error

    def _program(self, feeds: tuple[str, ...], output: str, wrt: tuple[str, ...], rule: str) -> _Program:
        key = (feeds, output, wrt, rule)
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        part = self._part(feeds, output, wrt)
        graph = build_vjp(part, output, wrt, _COTANGENT, rule) if rule else part
        program = _Program(
            self._open(graph),
            frozenset(value.name for value in graph.graph.input),
            {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in graph.graph.input},
            _notes(part, rule, output) if rule else (),
        )
        self._programs[key] = program
        if len(self._programs) > _KEPT_SESSIONS:
            self._programs.popitem(last=False)
        return program

    def _part(self, feeds: tuple[str, ...], output: str, wrt: tuple[str, ...]) -> onnx.ModelProto:
        """What lies between the fed tensors and the output."""
        for name in (*feeds, output, *wrt):
            if name not in self._known:
                raise LayerError(f"The graph has no tensor {name!r}.{did_you_mean(name, self._known)}")
        inputs = {value.name for value in self._model.graph.input}
        cuts = [name for name in feeds if name not in inputs]
        wanted = list(dict.fromkeys([output, *(name for name in wrt if name not in feeds)]))
        types = {}
        for name in cuts:
            known = self._known[name]
            types[name] = (known.dtype or 1, list(known.dims)) if known.dims is not None else (known.dtype or 1, None)
        return cut(self._model, cuts, wanted, types)  # type: ignore[arg-type]

    def _open(self, graph: onnx.ModelProto) -> Any:
        try:
            return open_session(graph, self._provider)
        except UnsupportedOperatorError as error:
            if not self._float64:
                raise ConversionError(f"the gradient cannot run in onnxruntime: {error}") from error
            raise ConversionError(
                f"onnxruntime has no double precision kernel for an operator of this graph ({error}). Use "
                "gradients='torch' with float64=True, or leave float64 out."
            ) from error
        except ModelError as error:
            raise ConversionError(f"the gradient cannot run in onnxruntime: {error}") from error


def _notes(part: onnx.ModelProto, rule: str, output: str) -> tuple[str, ...]:
    """What the rule did to the activations between the feeds and the output."""
    if rule == "backprop":
        return ()
    index, tape = GraphIndex(part), tape_for(part)
    crossed = [n for n in index.between((), (output,)) if n.op_type in ACTIVATIONS and index.data_inputs(n)]
    ruled = Counter(n.op_type for n in crossed if rectifier(call_of(tape, index, n, {}, set())))
    plain = Counter(n.op_type for n in crossed) - ruled
    return rule_notes(rule, ruled, plain)
