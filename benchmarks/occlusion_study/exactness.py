"""Every position of a map recomputed in full: the largest error of any logit."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import onnx
from support import zoo

import onnxvis
from occlusion_study.networks import export
from onnxvis.demo import lite0, photo

__all__ = ["rows"]

NETWORKS = (
    "squeezenet1_1", "mobilenet_v2", "lite0", "resnet18", "resnet50", "googlenet", "densenet121", "vgg16",
    "inception_v3", "mobilenet_v3_small", "efficientnet_b0",
)  # fmt: skip
WHAT = {"lite0": "EfficientNet-Lite0, trained, a photo", "mobilenet_v3_small": "mobilenet_v3_small (SE)",
        "efficientnet_b0": "efficientnet_b0 (SE)"}  # fmt: skip
GRIDS = ((8, 8), (16, 16), (32, 16), (64, 32))
FEW = ((32, 32), (64, 32))
HEAVY = ("vgg16", "resnet50", "googlenet", "densenet121", "inception_v3")
SMALL = (96, 128)
SMALL_GRIDS = ((8, 4), (16, 8), (32, 16), (64, 32))
SMALL_FEW = ((8, 8), (16, 16), (32, 16), (64, 32))
FIXED = {"vgg16": "its dense layers fix the size"}


def rows(names: list[str]) -> Iterator[str]:
    """The lines of the table."""
    yield "| network | pixels | windows / strides | positions checked | parts | operations | largest error |"
    yield "|---|---|---|--:|--:|--:|--:|"
    for name in NETWORKS:
        if names and name not in names:
            continue
        size = 299 if name == "inception_v3" else 224
        yield _row(name, (size, size), FEW if name in HEAVY else GRIDS, free=False)
        if name not in FIXED:
            yield _row(name, SMALL, SMALL_FEW if name in HEAVY else SMALL_GRIDS, free=True)


def _row(name: str, size: tuple[int, int], grids: tuple[tuple[int, int], ...], free: bool) -> str:
    model = onnxvis.load(_file(name, size[0], free), provider="cpu")
    x = zoo.image(max(size))[:, :, : size[0], : size[1]]
    if name == "lite0":
        x = model.prepare(photo()).tensor if not free else onnxvis.load(lite0("legacy")).prepare(photo()).tensor
        x = x[:, :, 60 : 60 + size[0], 40 : 40 + size[1]] if free else x
    found = [
        onnxvis.explain(
            model, x, "occlusion", 0, window=window, stride=stride, engine="incremental", exact_check="all"
        ).parameters
        for window, stride in grids
    ]
    checked = [p for p in found if p["exact_check"]]
    said = WHAT.get(name, name)
    sizes = ", ".join(f"{w}/{s}" for w, s in grids)
    pixels = f"{size[0]} x {size[1]}{', free size' if free else ''}"
    if not checked:
        return f"| {said} | {pixels} | {sizes} | – | plain | 100 % | – |"
    parts = [
        int(p["engine_reason"].split(" parts")[0].split()[-1]) if " parts" in p["engine_reason"] else 1 for p in checked
    ]
    shares = [p["operations"] for p in checked]
    error = max(p["exact_check"]["largest_relative_error"] for p in checked)
    positions = sum(p["exact_check"]["positions"] for p in checked)
    note = "" if len(checked) == len(grids) else f" ({len(grids) - len(checked)} of {len(grids)} plain)"
    return (
        f"| {said} | {pixels} | {sizes} | {positions:,} | {_span(parts, '')}{note} | "
        f"{_span([round(100 * s) for s in shares], ' %')} | {f'{error:.0e}' if error else '0'} |"
    )


def _span(values: list[int], unit: str) -> str:
    low, high = min(values), max(values)
    return f"{low}{unit}" if low == high else f"{low}–{high}{unit}"


@functools.cache
def _file(name: str, size: int, free: bool) -> Path:
    if not free:
        return Path(lite0("legacy")) if name == "lite0" else export(name, size)
    source = _file(name, 224 if name != "inception_v3" else 299, False)
    target = zoo.cache_folder() / f"{source.stem}-free.onnx"
    if not target.exists():
        model = onnx.load(source)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        dims[2].dim_param, dims[3].dim_param = "height", "width"
        onnx.save(model, target)
    return target
