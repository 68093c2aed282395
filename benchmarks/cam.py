"""The time of class activation maps on an exported file, against a plain forward pass and against the peers.

Run ``python benchmarks/cam.py [--threads N] [--repeats N] [--networks NAME ...]``.

*Grad-CAM*: eight pictures at once, prepared beforehand for all sides; onnxvis's time is that of the whole
explanation (forward pass of the deployed file, gradient of the tail, parity record, enlarging). It is compared
with the plain forward pass of the same file in onnxruntime, and with pytorch-grad-cam and Captum's LayerGradCam
(with its enlarging) on the original torch network, where they are installed.

*Ablation-CAM*: one picture; the peers' way runs the whole torch network for each batch of switched-off units. That
loop is written again here, timed on a sample of the units, and extrapolated to all of them.

All sides alternate call by call after one call each, and are compared by their medians. The networks are those of
tests/support/zoo.py (random weights: the time does not depend on them), at 224 x 224.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onnxvis
from onnxvis.converters.torchvision_shim import ensure_torchvision
from onnxvis.explaining import Settings, explain_prepared, request

LAYERS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "resnet18": lambda net: net.layer4,
    "resnet50": lambda net: net.layer4,
    "mobilenet_v2": lambda net: net.features,
    "densenet121": lambda net: net.features.norm5,
    "efficientnet_b0": lambda net: net.features,
    "vgg11_bn": lambda net: net.features[-2],
}
BATCH, SAMPLE, PEER_BATCH = 8, 64, 32


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each call, milliseconds."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {name: statistics.median(kept) for name, kept in times.items()}


def load(name: str) -> tuple[onnxvis.Model, torch.nn.Module]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support import zoo

    return onnxvis.load(zoo.export(name, "legacy", 17, 224, dynamic_batch=True)), zoo.torch_module(name)


def grad_cam_peers(net: torch.nn.Module, inner: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    classes = [int(c) for c in net(x).argmax(dim=1)]
    found: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("captum"):
        from captum.attr import LayerAttribution, LayerGradCam

        def captum() -> object:
            maps = LayerGradCam(net, inner).attribute(x, target=torch.tensor(classes))
            return LayerAttribution.interpolate(maps, (224, 224), "bilinear")

        found["Captum"] = captum
    if importlib.util.find_spec("pytorch_grad_cam"):
        ensure_torchvision()
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        def package() -> object:
            with GradCAM(model=net, target_layers=[inner]) as cam:
                return cam(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in classes])

        found["pytorch-grad-cam"] = package
    return found


def grad_cam(name: str, repeats: int) -> None:
    model, net = load(name)
    x = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    prepared = [model.prepare(one[None]) for one in x]
    chosen = request(model, "grad-cam", {})
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: model.engine.forward(x, (), BATCH),
        "onnxvis": lambda: explain_prepared(model, prepared, [chosen], [("top1",)] * BATCH, Settings(BATCH)),
        # Peers' users leave the weights trainable, as a loaded network has them.
        **grad_cam_peers(net.requires_grad_(True), LAYERS[name](net), torch.from_numpy(x)),
    }
    times = interleaved(calls, repeats)
    mine = times["onnxvis"]
    text = f"{name:16} forward {times['forward'] / BATCH:7.1f}  onnxvis {mine / BATCH:7.1f}"
    text += f" = x{mine / times['forward']:.2f}"
    for peer in list(times)[2:]:
        text += f"   {peer} {times[peer] / BATCH:7.1f} = x{times[peer] / mine:.1f} of onnxvis"
    print(text, flush=True)


def peers_way(net: torch.nn.Module, inner: torch.nn.Module, x: torch.Tensor, units: Sequence[int]) -> None:
    """The whole network once for each unit, in batches, the unit switched off by a hook."""
    for start in range(0, len(units), PEER_BATCH):
        part = units[start : start + PEER_BATCH]

        def hook(_module: Any, _inputs: Any, out: torch.Tensor, part: Sequence[int] = part) -> torch.Tensor:
            changed = out.clone()
            changed[torch.arange(len(part)), torch.tensor(part)] = 0
            return changed

        handle = inner.register_forward_hook(hook)
        try:
            with torch.no_grad():
                net(x.repeat(len(part), 1, 1, 1))
        finally:
            handle.remove()


def ablation_cam(name: str, repeats: int) -> None:
    model, net = load(name)
    inner = LAYERS[name](net)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    x = torch.from_numpy(image)
    channels = model.shapes[model.head.cam_layer][1]
    sample = list(range(0, channels, -(-channels // SAMPLE)))

    def ours(**options: Any) -> Callable[[], object]:
        return lambda: onnxvis.explain(model, image, "ablation-cam", "top1", **options)

    times = interleaved(
        {
            "forward": lambda: model.engine.forward(image),
            "as chosen": ours(),
            "tail": ours(closed_form=False),
            "peers": lambda: peers_way(net, inner, x, sample),
        },
        repeats,
    )
    peers = times["peers"] * channels / len(sample)
    print(
        f"{name:16} {channels:5} units  forward {times['forward']:6.1f}  "
        f"onnxvis {times['as chosen']:7.1f} (x{peers / times['as chosen']:.0f})  "
        f"tail run {times['tail']:7.1f} (x{peers / times['tail']:.0f})  "
        f"peers' way {peers:9.0f}, extrapolated from {len(sample)} units",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--networks", nargs="*", default=["resnet18", "mobilenet_v2", "resnet50"], choices=list(LAYERS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    for package, install in (("captum", "captum"), ("pytorch_grad_cam", "grad-cam")):
        if not importlib.util.find_spec(package):
            print(f"{package} is missing, so its column is left out: pip install {install}")
    print(f"{given.threads} torch threads, torch {torch.__version__}, medians of {given.repeats} interleaved calls\n")
    print(f"Grad-CAM, milliseconds per picture, {BATCH} pictures at once")
    for name in given.networks:
        grad_cam(name, given.repeats)
    print("\nAblation-CAM, milliseconds for one picture")
    for name in given.networks:
        ablation_cam(name, max(3, given.repeats // 3))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
