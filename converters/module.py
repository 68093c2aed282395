"""The torch module of an ONNX graph: runs node by node, keyed by the graph's own tensor names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from onnxvis.converters.plan import Plan, Step, make_plan
from onnxvis.converters.registry import ActivationKind
from onnxvis.converters.relu import ReluRule
from onnxvis.errors import ConversionError, LayerError, UsageError, did_you_mean

__all__ = ["Activation", "TorchGraph"]


@dataclass(frozen=True)
class Activation:
    """An activation node and what a ReLU rule does to it.

    Attributes:
        node: name of the node.
        op_type: its operator; with "(gate)" where the node multiplies its own input, as the Sigmoid of a SiLU
            and the HardSigmoid of a HardSwish do when an exporter writes them as two nodes.
        output: the tensor it makes.
        kind: whether a rule applies.
    """

    node: str
    op_type: str
    output: str
    kind: ActivationKind

    @property
    def treatment(self) -> str:
        """One word or two for a report: ``"rule"`` or ``"ordinary derivative"``."""
        return "ordinary derivative" if self.kind is ActivationKind.PLAIN else "rule"


class TorchGraph(nn.Module):
    """An ONNX graph as a differentiable torch module.

    Built by :func:`onnxvis.converters.convert`. Always in inference mode, no parameter asks for a gradient.
    Tensors are named as in the ONNX graph. All float types of the graph become one working type (float32;
    ``to_dtype`` changes it), shape arithmetic stays int64 on the CPU.

    Attributes:
        input_names: graph inputs that are not initializers.
        output_names: graph outputs.
        captured_names: tensors of an enclosing graph that this one uses; only bodies of If and Loop have any.
        activations: the activation nodes, in the order they run.
    """

    def __init__(
        self,
        operators: Sequence[nn.Module],
        steps: Sequence[Step],
        constants: Mapping[str, Tensor],
        *,
        input_names: Sequence[str],
        output_names: Sequence[str],
        working: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self.captured_names = _captured(steps, {*constants, *input_names}, output_names)
        self._modules_by_step = list(self.operators)
        self._steps = tuple(steps)
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], Plan] = {}
        # ONNX names hold dots, which torch does not allow in buffer names.
        self._buffer_of: dict[str, str] = {}
        self._host: dict[str, Tensor] = {}
        self._copies: dict[str, Tensor] = {}
        self.register_buffer("_probe", torch.empty(0, dtype=working), persistent=False)
        for name, value in constants.items():
            if value.is_floating_point():
                self._buffer_of[name] = f"constant_{len(self._buffer_of)}"
                self.register_buffer(self._buffer_of[name], value.to(working))
            else:
                self._host[name] = value
        self.activations = _activations(self._steps)
        self.eval()
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The working float type."""
        return self._probe_buffer.dtype

    @property
    def device(self) -> torch.device:
        """Where the float constants live and float inputs are expected."""
        return self._probe_buffer.device

    @property
    def _probe_buffer(self) -> Tensor:
        probe = self._buffers["_probe"]
        assert probe is not None
        return probe

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Every tensor that can be fed or fetched: inputs, then node outputs in running order."""
        made = (name for step in self._steps for name in step.outputs if name)
        return (*self.input_names, *self.captured_names, *made)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The nodes in the order they run."""
        return self._steps

    def constant(self, name: str) -> Tensor | None:
        """The value of a constant of the graph, None where the name is not one."""
        return self._buffers[self._buffer_of[name]] if name in self._buffer_of else self._host.get(name)

    def run_step(self, step: Step, arguments: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Run one node on given tensors, in the order of ``step.inputs``.

        Raises:
            ConversionError: the node failed; the message names it.
        """
        return self._call(step, list(arguments), None)

    def activations_between(self, feeds: Iterable[str], output: str) -> tuple[Activation, ...]:
        """The activations that run when ``output`` is computed from ``feeds``, in the order they run."""
        made = {name for step in self._plan(frozenset(feeds), (output,)).steps for name in step.outputs}
        return tuple(activation for activation in self.activations if activation.output in made)

    def to_dtype(self, dtype: torch.dtype) -> Self:
        """Change the working float type (float64 for gradient checks)."""
        return self.to(dtype)

    def train(self, mode: bool = True) -> Self:
        """Do nothing for ``mode=True``: an exported graph is an inference graph."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._copies.clear()
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def forward(
        self,
        feeds: Mapping[str, Tensor],
        fetch: Sequence[str] | None = None,
        relu: ReluRule | str | None = None,
        watch: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """Run the part of the graph that lies between the feeds and the fetched tensors.

        Args:
            feeds: values for graph inputs or for any intermediate tensor; what lies only before a fed tensor
                is not run. Float tensors must have the working type.
            fetch: names of tensors to return, the graph's outputs if left out. They keep their autograd
                graph, so ``torch.autograd.grad`` works from and to any of them.
            relu: backward rule of the rectifiers (a :class:`ReluRule`); the ordinary derivative if left out.
            watch: intermediate tensors to differentiate by although nothing before them asks for a gradient.
                They become leaves, so no gradient is spent on what lies before them. Fetch them as well.

        Raises:
            LayerError: a name that the graph does not have.
            UsageError: a needed tensor is neither fed nor computable, or a fed one has the wrong float type.
            ConversionError: a node failed; the message names it.
        """
        wanted = self.output_names if fetch is None else tuple(fetch)
        self._check_feeds(feeds)
        plan = self._plan(frozenset(feeds), wanted)
        rule = None if relu is None else ReluRule(relu)
        leaves = frozenset(watch)
        values: dict[str, Tensor] = dict(feeds)
        for step, drop in zip(plan.steps, plan.drop, strict=True):
            for name, value in zip(step.outputs, self._run(step, values, rule), strict=False):
                if name and name not in feeds:
                    values[name] = _leaf(value) if name in leaves else value
            for name in drop:
                values.pop(name, None)
        return {name: self._read(name, values) for name in wanted}

    def _check_feeds(self, feeds: Mapping[str, Tensor]) -> None:
        for name, value in feeds.items():
            if value.is_floating_point() and value.dtype != self.dtype:
                raise UsageError(
                    f"Tensor {name!r} was fed as {value.dtype}, but the graph works in {self.dtype}: "
                    "convert the tensor, or call to_dtype() on the graph."
                )

    def _plan(self, feeds: frozenset[str], fetch: tuple[str, ...]) -> Plan:
        key = (feeds, fetch)
        if key not in self._plans:
            names = {*self.tensor_names, *self._buffer_of, *self._host}
            for name in (*feeds, *fetch):
                if name not in names:
                    raise LayerError(f"The graph has no tensor {name!r}.{did_you_mean(name, names)}")
            plan = make_plan(self._steps, {*self._buffer_of, *self._host}, feeds, fetch)
            if plan.missing:
                raise UsageError(
                    f"To compute {', '.join(map(repr, fetch))}, these tensors must be fed too: "
                    f"{', '.join(map(repr, plan.missing))}."
                )
            if len(self._plans) >= 64:
                self._plans.clear()
            self._plans[key] = plan
        return self._plans[key]

    def _read(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        value = values.get(name)
        if value is None:
            value = self.constant(name)
            assert value is not None
        return value

    def _run(self, step: Step, values: Mapping[str, Tensor], rule: ReluRule | None) -> tuple[Tensor, ...]:
        return self._call(step, [self._read(name, values) if name else None for name in step.inputs], rule)

    def _call(self, step: Step, arguments: list[Tensor | None], rule: ReluRule | None) -> tuple[Tensor, ...]:
        if self._probe_buffer.device.type != "cpu":
            self._align(step, arguments)
        options: dict[str, Any] = {}
        if rule is not None and step.activation not in (None, ActivationKind.PLAIN):
            options["rule"] = rule
        try:
            result = self._modules_by_step[step.index](*arguments, **options)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            shapes = ", ".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in arguments)
            raise ConversionError(
                f"Node {step.name!r} ({step.op_type}) failed in torch on ({shapes}): {error}"
            ) from error
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        # A tensor that passes through unchanged becomes its own place in the autograd graph: a gradient taken
        # with respect to the node's output must not collect what flows around the node.
        return tuple(value.view_as(value) if any(value is given for given in arguments) else value for value in results)

    def _align(self, step: Step, arguments: list[Tensor | None]) -> None:
        """Bring tensors to one device where shape-like (CPU) and data-like ones meet."""
        data = [(i, a) for i, a in enumerate(arguments) if a is not None and i not in step.host]
        if len({a.device.type for _, a in data}) <= 1:
            return
        for i, value in data:
            if value.device.type != "cpu":
                continue
            name = step.inputs[i]
            if name in self._host:
                if name not in self._copies:
                    self._copies[name] = value.to(self.device)
                arguments[i] = self._copies[name]
            else:
                arguments[i] = value.to(self.device)


def _captured(steps: Sequence[Step], known: set[str], outputs: Sequence[str]) -> tuple[str, ...]:
    made = {name for step in steps for name in step.outputs}
    used = (*(name for step in steps for name in step.inputs if name), *outputs)
    return tuple(dict.fromkeys(name for name in used if name not in made and name not in known))


def _activations(steps: Sequence[Step]) -> tuple[Activation, ...]:
    products = {frozenset(step.inputs) for step in steps if step.op_type == "Mul"}
    found = []
    for step in steps:
        if step.activation is not None:
            gate = step.op_type.endswith("Sigmoid") and frozenset((step.inputs[0], step.outputs[0])) in products
            name = f"{step.op_type} (gate)" if gate else step.op_type
            found.append(Activation(step.name, name, step.outputs[0], step.activation))
    return tuple(found)


def _leaf(value: Tensor) -> Tensor:
    if value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().requires_grad_()
