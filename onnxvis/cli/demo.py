"""`onnxvis demo`: the main job on a real network and real photos."""

from __future__ import annotations

from pathlib import Path

from onnxvis.cli.console import out
from onnxvis.cli.explain import Job, run_job
from onnxvis.demo import PHOTOS, lite0, photo
from onnxvis.model import load

__all__ = ["run_demo"]

_METHODS = ("grad-cam", "occlusion", "saliency")


def run_demo(folder: Path, provider: str | None) -> int:
    """Fetch, export, explain; the exit code of the explanation."""
    out.print("model: EfficientNet-Lite0 with its ImageNet weights (exported to ONNX once, then cached)")
    path = lite0()
    out.print(f"       {path}")
    job = Job(
        model=load(path, provider=provider),
        images=tuple(str(photo(name)) for name in PHOTOS),
        methods=_METHODS,
        targets=("top2",),
        out=folder,
    )
    return run_job(job)
