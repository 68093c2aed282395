"""The machine under a measurement: what it is, what it can do at most, and how much memory was used."""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxvis.runtime.providers import Provider
from onnxvis.runtime.session import open_session

__all__ = ["Ceiling", "describe_machine", "measure_ceiling", "peak_memory_mb"]

_ROUNDS = 5
_CHAIN = 4


@dataclass(frozen=True)
class Ceiling:
    """What dense float32 work reached in onnxruntime on a provider, just now.

    Attributes:
        provider: onnxruntime's name of it.
        gemm: GFLOP/s of a chain of square matrix products.
        convolution: GFLOP/s of a 3 x 3 convolution with many channels.
        what: the sizes, in words.
    """

    provider: str
    gemm: float
    convolution: float
    what: str

    @property
    def gflops(self) -> float:
        """The better of the two, GFLOP/s."""
        return max(self.gemm, self.convolution)


def measure_ceiling(provider: Provider, clock: Callable[[], float] = time.perf_counter) -> Ceiling:
    """Time dense work on a provider: the best of a few runs, so that other programs disturb it least.

    A ceiling in practice, measured and not looked up: a network of large convolutions can come near it, and on a
    busy machine one that runs in a quieter moment can even pass it.

    Args:
        provider: where to run.
        clock: seconds; ``time.process_time`` counts those of the processor instead.
    """
    on_cpu = provider.short == "cpu"
    side = 1024 if on_cpu else 4096
    channels, places = (256, 28) if on_cpu else (512, 112)
    rng = np.random.default_rng(0)
    square = (rng.standard_normal((side, side)) / side**0.5).astype(np.float32)
    kernel = (rng.standard_normal((channels, channels, 3, 3)) / (3 * channels**0.5)).astype(np.float32)
    chain = [helper.make_node("MatMul", [f"t{i}", "w"], [f"t{i + 1}"]) for i in range(_CHAIN)]
    layers = [helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], pads=[1] * 4) for i in range(_CHAIN)]
    run = functools.partial(_best_seconds, provider, clock)
    gemm = 2 * _CHAIN * side**3 / run(chain, square, (side, side)) / 1e9
    work = 2 * _CHAIN * 9 * channels**2 * places**2
    convolution = work / run(layers, kernel, (1, channels, places, places)) / 1e9
    what = (
        f"float32, best of {_ROUNDS}: {_CHAIN} products of {side} x {side} matrices; {_CHAIN} convolutions 3 x 3, "
        f"{channels} channels, {places} x {places}"
    )
    return Ceiling(provider.name, gemm, convolution, what)


def _best_seconds(
    provider: Provider, clock: Callable[[], float], nodes: list[Any], weight: np.ndarray, shape: tuple[int, ...]
) -> float:
    """Only one number leaves the graph, so that a device's transfers do not count."""
    last = helper.make_node("ReduceMax", [f"t{len(nodes)}"], ["top"], keepdims=0)
    graph = helper.make_graph(
        [*nodes, last],
        "ceiling",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("top", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model, provider)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    times = []
    for _ in range(_ROUNDS + 1):
        began = clock()
        session.run(None, {"t0": x})
        times.append(clock() - began)
    return max(min(times[1:]), 1e-9)


def describe_machine() -> dict[str, Any]:
    """The processor, how many of it this process may use, and how busy it was when asked."""
    affinity = getattr(os, "sched_getaffinity", None)
    load = getattr(os, "getloadavg", None)
    found: dict[str, Any] = {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "system": platform.platform(),
    }
    if "torch" in sys.modules:
        found["torch_threads"] = sys.modules["torch"].get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        found["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    if load is not None:
        found["load_average"] = round(load()[0], 2)
    return found


def _processor() -> str:
    """Its model name, where the system tells; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory_mb() -> float | None:
    """The most memory this process has held so far, in MB (10^6 bytes); None where the system does not count it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024) / 1e6
