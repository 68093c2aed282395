"""`fit`: a labelled set and a deployed classifier in, one SCOUTER file out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxvis.behaviour.scouter.backbone import TrainableBackbone, Whole
from onnxvis.behaviour.scouter.data import Samples
from onnxvis.behaviour.scouter.features import Features, backbone_features
from onnxvis.behaviour.scouter.head import XSlotHead
from onnxvis.behaviour.scouter.joining import Parts, default_opset, join, trunk_of
from onnxvis.behaviour.scouter.onnx_head import OLDEST_OPSET
from onnxvis.behaviour.scouter.settings import HeadForm, HeadSettings, TrainingSettings
from onnxvis.behaviour.scouter.training import Examples, Trained, train
from onnxvis.behaviour.scouter.verifying import verify
from onnxvis.errors import LayerError, UsageError
from onnxvis.explaining import request
from onnxvis.files import write_file
from onnxvis.methods import LayerChoice
from onnxvis.methods.checkpoint import fingerprint
from onnxvis.methods.scouter import METADATA_KEY
from onnxvis.model import Model
from onnxvis.modelfile import with_weights
from onnxvis.progress import Progress, silent

__all__ = ["Fitted", "fit", "split"]

_CALIBRATION = 256
_CHECKED = 4
_SAME = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained SCOUTER classifier.

    Attributes:
        proto: the whole model: backbone and head, labels and preprocessing in its metadata.
        record: what the file says of itself under ``onnxvis.scouter``.
        trained: how the training went.
        problems: pictures that could not be read, one sentence each.
        notes: what is to be said, one sentence each.
    """

    proto: onnx.ModelProto
    record: Mapping[str, Any]
    trained: Trained
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def save(self, path: str | Path) -> Path:
        """Write the file; an existing one is replaced only when the new one is complete.

        Raises:
            OutputError: it cannot be written.
        """
        target = Path(path)
        write_file(target, self.proto.SerializeToString())
        return target


def fit(
    model: Model,
    samples: Samples,
    work: str | Path,
    *,
    head: HeadSettings | None = None,
    training: TrainingSettings | None = None,
    layer: str | None = None,
    train_backbone: bool = False,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Fitted:
    """Put a slot-attention head on a deployed classifier and train it.

    The graph is cut at its last feature map; the part before it runs once over all pictures in onnxruntime, and what
    it gives is kept in ``work``. The same call again goes on where an interrupted one stopped.

    Args:
        model: the classifier, with its preprocessing.
        samples: labelled pictures (:func:`~onnxvis.behaviour.scouter.data.read_samples`); their classes need not be
            the model's.
        work: folder for features and checkpoints.
        head: form of the head.
        training: how to train.
        layer: where to cut; by structure when left out.
        train_backbone: train the converted backbone too; it is then written in its canonical form.
        batch_size: pictures at once in onnxruntime.
        progress: called with (stage, done, total).

    Raises:
        UsageError: the data or the settings do not do, or the backbone of an 8-bit file is to be trained.
        LayerError: no feature map can be chosen, or the named one does not do.
        ModelError: features or losses that are not finite.
        ConversionError: the joined file would not compute what was trained.
    """
    head, training, work = head or HeadSettings(), training or TrainingSettings(), Path(work)
    choice = _layer(model, layer)
    if train_backbone and model.engine.precision == "int8":
        raise UsageError(
            f"{model.name!r} computes in 8 bits, whose steps have no slope to train along: leave --train-backbone out "
            "(the head is then trained on the features of the file as it is), or give the file before quantization."
        )
    read = model.image_input.name if train_backbone else choice.tensor
    features = backbone_features(model, samples, read, work, batch_size, progress)
    labels = samples.labels
    fitted, held_back = split(samples, features.good, training.validation, training.seed)
    torch.manual_seed(training.seed)
    module = _modules(model, choice, head, len(samples.classes), train_backbone)
    fetch = _fetch(features, _SAME if train_backbone else _permutation(choice))
    _calibrate(module, fetch(fitted[:_CALIBRATION]))
    key = fingerprint((features.key, labels, head, dataclasses.replace(training, save_seconds=0.0), train_backbone))
    examples = Examples(fetch, labels, fitted, held_back)
    trained = train(module, examples, training, work / f"training-{key[:16]}.pt", key, progress)
    module.cpu()
    parts, notes = _parts(model, choice, module, not train_backbone and features.values.dtype != np.float32)
    record = _record(model, choice, training, trained, train_backbone, len(fitted), len(held_back))
    proto = join(parts, samples.classes, model.preprocessing, record)
    rows = fitted[:_CHECKED]
    with torch.no_grad():
        expected = module(fetch(rows))[0].numpy()
    pictures = [samples.pictures[row] for row in rows]
    notes += verify(model, proto, pictures, expected, choice.tensor, exact=not train_backbone)
    stated = json.loads(next(e.value for e in proto.metadata_props if e.key == METADATA_KEY))
    return Fitted(proto, stated, trained, features.problems, (*trained.notes, *notes))


def split(samples: Samples, good: np.ndarray, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows held back, class by class at random; a class keeps at least one to learn from.

    Raises:
        UsageError: a class has no readable picture.
    """
    chance = np.random.default_rng(seed)
    fitted, held_back = [], []
    for index, name in enumerate(samples.classes):
        rows = np.flatnonzero((samples.labels == index) & good)
        if not len(rows):
            raise UsageError(f"{samples.source}: no picture of class {name!r} can be read. Mend them, or leave it out.")
        rows = chance.permutation(rows)
        count = min(round(part * len(rows)), len(rows) - 1)
        held_back.append(rows[:count])
        fitted.append(rows[count:])
    return np.sort(np.concatenate(fitted)), np.sort(np.concatenate(held_back))


def _layer(model: Model, name: str | None) -> LayerChoice:
    choice = request(model, "eigen-cam", {}, name).layer
    assert choice is not None
    shape = model.shapes[choice.tensor]
    places = [shape[axis] for axis in choice.spatial_axes]
    if len(shape) != 4 or int(np.prod(places)) < 2:
        raise LayerError(
            f"layer {choice.tensor!r} has shape {shape}: slots need a feature map with channels and more than "
            "one place. Choose an earlier layer with --layer (`onnxvis inspect` lists them)."
        )
    return choice


def _permutation(choice: LayerChoice) -> tuple[int, int, int, int]:
    return 0, choice.channel_axis, *choice.spatial_axes


def _modules(
    model: Model, choice: LayerChoice, head: HeadSettings, classes: int, train_backbone: bool
) -> XSlotHead | Whole:
    shape = model.shapes[choice.tensor]
    channels, height, width = (shape[axis] for axis in _permutation(choice)[1:])
    slots = XSlotHead(HeadForm(head, channels, height, width, classes))
    if not train_backbone:
        return slots
    image = model.image_input.name
    trunk = trunk_of(model.canonical.model, image, choice.tensor)
    return Whole(TrainableBackbone(trunk, image, choice.tensor, _permutation(choice)), slots)


def _fetch(features: Features, permutation: tuple[int, ...]) -> Callable[[np.ndarray], Tensor]:
    def fetch(rows: np.ndarray) -> Tensor:
        values = np.asarray(features.values[rows], np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(permutation[: values.ndim])))

    return fetch


def _calibrate(module: XSlotHead | Whole, sample: Tensor) -> None:
    if isinstance(module, XSlotHead):
        module.calibrate(sample)
        return
    with torch.no_grad():
        module.head.calibrate(module.backbone(sample))


def _parts(model: Model, choice: LayerChoice, module: XSlotHead | Whole, cast: bool) -> tuple[Parts, list[str]]:
    """What is joined: the file's own nodes where they can carry the head, else their canonical form."""
    image, slots = model.image_input.name, module if isinstance(module, XSlotHead) else module.head
    weights = {name: tensor.numpy() for name, tensor in slots.state_dict().items()}
    deployed = with_weights(model.file)
    notes = []
    if isinstance(module, Whole):
        trunk = module.backbone.exported()
        notes.append("the trained backbone is written in its canonical form, operator set 17")
    elif model.in_file(choice.tensor) and default_opset(deployed) >= OLDEST_OPSET:
        trunk = trunk_of(deployed, image, choice.tensor)
    else:
        trunk = trunk_of(model.canonical.model, image, choice.tensor)
        why = (
            f"its operator set is older than {OLDEST_OPSET}"
            if model.in_file(choice.tensor)
            else "the layer is not in it"
        )
        notes.append(f"the backbone is written in its canonical form, because {why}")
    shape = model.one_image_shape()
    return Parts(trunk, image, shape, choice.tensor, _permutation(choice), cast, slots.form, weights), notes


def _record(
    model: Model,
    choice: LayerChoice,
    training: TrainingSettings,
    trained: Trained,
    train_backbone: bool,
    fitted: int,
    held_back: int,
) -> dict[str, Any]:
    best = trained.history[trained.best]
    plain = {name: None if math.isnan(value) else value for name, value in dataclasses.asdict(best).items()}
    return {
        "layer_reason": choice.reason,
        "source_sha256": model.sha256,
        "backbone": "trained" if train_backbone else "frozen",
        "training": dataclasses.asdict(training),
        "pictures": {"fitted": fitted, "held_back": held_back},
        "epoch": trained.best + 1,
        "result": plain,
    }
