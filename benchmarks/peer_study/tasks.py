"""The tasks: the same work as a call for onnxvis and one for each peer, ready to be timed.

Each call returns its maps where they can be compared with those of onnxvis, else None.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from onnxvis.embedding import embed
from onnxvis.explaining import Settings, explain_prepared, request
from peer_study.networks import Network

__all__ = ["ONNXVIS", "PACKAGES", "Task", "tasks"]

Call = Callable[[], "np.ndarray | None"]
ONNXVIS = "onnxvis"
PACKAGES = {"Captum": "captum", "pytorch-grad-cam": "grad-cam", "torchcam": "torchcam", "DIANNA": "dianna"}
WINDOW = 32
MASKS = 128
KEEP = 0.5


@dataclass(frozen=True, eq=False)
class Task:
    """One piece of work on one network.

    Attributes:
        kind: the table it belongs to.
        network: its name.
        batch: images at once.
        detail: settings, in words.
        calls: by the name of who does it; all settings of one peer stand side by side, the best counts.
        per: how many units of work one call does (images), to divide by.
        slow: seconds and not milliseconds: fewer rounds.
    """

    kind: str
    network: str
    batch: int
    detail: str
    calls: dict[str, Call] = field(default_factory=dict)
    slow: bool = False


def tasks(net: Network) -> list[Task]:
    """Everything that is timed on one network."""
    found = []
    for batch in (1, 8):
        found += [_forward(net, batch), _saliency(net, batch), _guided(net, batch), _grad_cam(net, batch)]
        found.append(_grad_cam(net, batch, embedded=True))
    for stride in (16, 32):
        found.append(_occlusion(net, stride))
    return [*found, _rise(net)]


def installed(peer: str) -> bool:
    """Whether a peer is there."""
    try:
        importlib.metadata.version(PACKAGES[peer])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _ours(net: Network, batch: int, method: str, **options: object) -> Call:
    """The whole explanation: the file's answer, the method, the parity record."""
    prepared = [net.model.prepare(image) for image in net.images(batch)]
    targets = [(index,) for index in net.classes(batch)]
    chosen = request(net.model, method, options)
    settings = Settings(batch_size=8, allow_unverified=True)

    def call() -> np.ndarray:
        found = [per_method[0][0] for per_method in explain_prepared(net.model, prepared, [chosen], targets, settings)]
        return np.stack([e.attribution if e.layer_map is None else e.layer_map for e in found])

    return call


def _forward(net: Network, batch: int) -> Task:
    x, name = net.x[:batch], net.model.logits.tensor
    tensor = torch.from_numpy(x)

    def ours() -> np.ndarray:
        return net.model.engine.forward(x, (name,), batch)[name]

    def theirs() -> np.ndarray:
        with torch.no_grad():
            return net.module(tensor).numpy()

    return Task("forward", net.name, batch, "", {ONNXVIS: ours, "torch": theirs})


def _saliency(net: Network, batch: int) -> Task:
    task = Task("saliency", net.name, batch, "", {ONNXVIS: _ours(net, batch, "saliency")})
    if installed("Captum"):
        from captum.attr import Saliency

        method, classes = Saliency(net.module), net.classes(batch)
        task.calls["Captum"] = lambda: method.attribute(net.tensor(batch), target=classes, abs=False).numpy()
    return task


def _guided(net: Network, batch: int) -> Task:
    task = Task("guided-backprop", net.name, batch, "", {ONNXVIS: _ours(net, batch, "guided-backprop")})
    if installed("Captum"):
        from captum.attr import GuidedBackprop

        method, classes = GuidedBackprop(net.module), net.classes(batch)
        task.calls["Captum"] = lambda: method.attribute(net.tensor(batch), target=classes).detach().numpy()
    return task


def _embedded(net: Network, batch: int) -> Call:
    """The file with Grad-CAM inside in plain onnxruntime: what a program without onnxvis pays."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    proto = embed(net.model, "grad-cam", upsample=True).proto
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {net.model.image_input.name: np.ascontiguousarray(net.x[:batch])}
    feeds["class_index"] = np.array(net.classes(batch), np.int64)

    def call() -> None:
        session.run(None, feeds)

    return call


def _grad_cam(net: Network, batch: int, embedded: bool = False) -> Task:
    ours = _embedded(net, batch) if embedded else _ours(net, batch, "grad-cam")
    task = Task("embedded" if embedded else "grad-cam", net.name, batch, "", {ONNXVIS: ours})
    classes = net.classes(batch)
    if installed("Captum"):
        from captum.attr import LayerAttribution, LayerGradCam

        layered = LayerGradCam(net.module, net.layer)

        def captum() -> np.ndarray | None:
            maps = layered.attribute(net.tensor(batch), target=classes)
            LayerAttribution.interpolate(maps, (224, 224), "bilinear")
            return maps.detach().numpy()[:, 0] if net.same_layer and not embedded else None

        task.calls["Captum"] = captum
    if installed("pytorch-grad-cam"):
        task.calls["pytorch-grad-cam"] = _pytorch_grad_cam(net, batch, classes)
    if installed("torchcam"):
        task.calls["torchcam"] = _torchcam(net, batch, classes)
    return task


def _pytorch_grad_cam(net: Network, batch: int, classes: list[int]) -> Call:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(c) for c in classes]

    def call() -> None:
        with GradCAM(model=net.module, target_layers=[net.layer]) as cam:
            cam(input_tensor=net.tensor(batch), targets=targets)

    return call


def _torchcam(net: Network, batch: int, classes: list[int]) -> Call:
    from torchcam.methods import GradCAM

    def call() -> None:
        with GradCAM(net.module, target_layer=net.layer) as cam:
            maps = cam(classes, net.module(net.tensor(batch)))
        torch.nn.functional.interpolate(maps[0][:, None], (224, 224), mode="bilinear")

    return call


def _occlusion(net: Network, stride: int) -> Task:
    positions = (-(-(224 - WINDOW) // stride) + 1) ** 2
    detail = f"window {WINDOW}, stride {stride}: {positions} positions"
    task = Task("occlusion", net.name, 1, detail, slow=True)
    task.calls[ONNXVIS] = _ours(net, 1, "occlusion", window=WINDOW, stride=stride, baseline=0.0)
    if installed("Captum"):
        from captum.attr import Occlusion

        method, classes = Occlusion(net.module), net.classes(1)
        for at_once in (1, 16):

            def captum(at_once: int = at_once) -> np.ndarray:
                with torch.no_grad():
                    maps = method.attribute(
                        torch.from_numpy(net.x[:1]), sliding_window_shapes=(3, WINDOW, WINDOW),
                        strides=(3, stride, stride), target=classes, perturbations_per_eval=at_once,
                    )  # fmt: skip
                return maps.numpy()[:, 0]

            task.calls[f"Captum, {at_once} at once"] = captum
    return task


def _rise(net: Network) -> Task:
    task = Task("rise", net.name, 1, f"{MASKS} masks, 8 at once", slow=True)
    task.calls[ONNXVIS] = _ours(net, 1, "rise", masks=MASKS, cells=8, keep=KEEP, center=False)
    if installed("DIANNA"):
        from dianna.methods.rise_image import RISEImage

        path, label = str(net.model.file.path), net.classes(1)

        def dianna() -> None:
            method = RISEImage(n_masks=MASKS, feature_res=8, p_keep=KEEP, axis_labels={0: "channels"})
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                method.explain(path, net.x[0], label, batch_size=8)

        task.calls["DIANNA"] = dianna
    return task
