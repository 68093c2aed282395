"""Damaged models: seeded mutations of real ones, and a worker process that tries each.

Run as a module it is the worker: ``python -m support.fuzz FIRST COUNT`` prints one JSON line per case,
before it starts and when it ends, so that whoever reads knows which case killed the process.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

__all__ = ["Outcome", "mutate", "run_cases"]

_SECONDS = 30
_MEMORY = 12 << 30
_HUGE = (-1, 0, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
_OPERATORS = ("Relu", "Conv", "Add", "Reshape", "Gemm", "Transpose", "Loop", "If", "Resize", "LSTM", "Tile", "Expand")


@dataclass(frozen=True)
class Outcome:
    """What became of one case: "ok", "refused" (one of our errors), or a defect."""

    case: int
    kind: str
    detail: str


def _flip_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.randrange(1, 200)] * 2 + data[start:]


def _structural(data: bytes, rng: random.Random) -> bytes:
    model = ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_EDITS)(model, rng)
    return model.SerializeToString()


def _edit_operator(model: ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.node).op_type = rng.choice(_OPERATORS)


def _edit_input(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = [n for other in model.graph.node for n in (*other.input, *other.output)] + ["", "nowhere"]
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _edit_output(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = [n for other in model.graph.node for n in other.output] + ["", "fresh"]
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)


def _edit_attribute(model: ModelProto, rng: random.Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_HUGE)
    else:
        attribute.i = rng.choice(_HUGE)
        attribute.type = rng.choice((1, 2, 3, 4, 5, 6, 7, 0, 99)) if rng.random() < 0.3 else attribute.type


def _edit_dimension(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    if tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_HUGE)


def _edit_type(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_type = rng.choice((0, 1, 2, 6, 7, 8, 9, 10, 11, 16, 20, 25, 99))


def _edit_values(model: ModelProto, rng: random.Random) -> None:
    tensor: TensorProto = rng.choice(model.graph.initializer)
    if tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
    elif tensor.float_data:
        del tensor.float_data[rng.randrange(len(tensor.float_data)) :]


def _edit_shape(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output))
    dims = value.type.tensor_type.shape.dim
    if dims:
        rng.choice(dims).dim_value = rng.choice(_HUGE)


def _remove_node(model: ModelProto, rng: random.Random) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def _swap_nodes(model: ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _edit_opset(model: ModelProto, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice((0, 1, 6, 9, 13, 17, 22, 99, 2**40))


def _edit_special(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    if tensor.data_type == TensorProto.FLOAT and tensor.dims:
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[: rng.choice((1, 3))] = rng.choice((np.nan, np.inf, 1e38, 0.0))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


_EDITS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _edit_operator, _edit_input, _edit_output, _edit_attribute, _edit_attribute, _edit_dimension, _edit_type,
    _edit_values, _edit_shape, _remove_node, _swap_nodes, _edit_opset, _edit_special,
)  # fmt: skip
_MUTATIONS = (_flip_bytes, _cut, _repeat, _structural, _structural, _structural)


def bases() -> list[bytes]:
    """Small real models in several forms."""
    from support.formats import convnet, half

    plain = convnet(opset=13, size=16)
    return [
        plain.SerializeToString(),
        convnet(opset=9, size=12, batch="N").SerializeToString(),
        half(convnet(opset=13, size=16)).SerializeToString(),
    ]


def mutate(case: int, sources: list[bytes]) -> bytes:
    """The damaged file of a case; the same for the same number."""
    rng = random.Random(case)
    data = rng.choice(sources)
    try:
        return rng.choice(_MUTATIONS)(data, rng)
    except (ValueError, IndexError, OverflowError):  # protobuf refuses some values at once
        return _flip_bytes(data, rng)


def attempt(data: bytes) -> str:
    """Everything a person would do with the file; "ok", or "refused" with the error's first words."""
    import onnxvis
    from onnxvis.check import check

    try:
        model = onnxvis.load(data)
        report = check(model)
    except onnxvis.OnnxvisError as error:
        return f"refused: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "ok" if report.usable else "refused: no method works"


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {_SECONDS} s")


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def worker(first: int, count: int) -> None:
    """Try the cases and print what became of each."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    sources = bases()
    for case in range(first, first + count):
        _say({"start": case})
        signal.alarm(_SECONDS)
        try:
            result = attempt(mutate(case, sources))
        except BaseException:  # noqa: BLE001 - whatever gets here is what this is looking for
            result = "defect: " + traceback.format_exc()[-1500:]
        signal.alarm(0)
        _say({"end": case, "result": result})


def run_cases(first: int, count: int, progress: Callable[[int], None] | None = None) -> list[Outcome]:
    """Try cases in a worker process; one that dies is started again behind the case that killed it."""
    outcomes: list[Outcome] = []
    last = first + count
    while first < last:
        command = [sys.executable, "-m", "support.fuzz", str(first), str(last - first)]
        folder = Path(__file__).resolve().parent.parent
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=quiet, text=True) as child:
            assert child.stdout is not None
            running = first
            for line in child.stdout:
                if not line.startswith("{"):
                    continue
                message = json.loads(line)
                running = message.get("start", running)
                if "end" in message:
                    kind = message["result"].split(":")[0]
                    outcomes.append(Outcome(message["end"], kind, message["result"]))
                    running = message["end"] + 1
                    if progress:
                        progress(running)
            code = child.wait()
        if running >= last:
            break
        outcomes.append(Outcome(running, "crash", f"the process ended with code {code}"))
        first = running + 1
    return outcomes


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]))
