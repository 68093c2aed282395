"""A deployed model: the graph of the file, its preprocessing, its labels, and what can be read from it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxvis.errors import LayerError, ModelError, OnnxvisError, PreprocessingError, UsageError
from onnxvis.graph.canonical import Canonical, canonicalize
from onnxvis.graph.expose import available_tensors
from onnxvis.graph.head import Head, Logits, find_head, find_logits
from onnxvis.graph.index import GraphIndex
from onnxvis.graph.layers import Layer, layer_table, resolve_layer
from onnxvis.graph.receptive import TensorField, receptive_fields
from onnxvis.labels import Labels, LabelSource, load_labels
from onnxvis.modelfile import ModelFile, read_model, with_weights
from onnxvis.preprocessing import Prepared, Preprocessing, resolve
from onnxvis.runtime.engine import Engine
from onnxvis.runtime.providers import choose_provider, onnxruntime_module
from onnxvis.runtime.session import Sessions
from onnxvis.target import OutputForm

if TYPE_CHECKING:
    from onnxvis.picture import PictureSource
    from onnxvis.prediction import Prediction

__all__ = ["Model", "TensorSpec", "load"]

_DEFAULT_SIDE = 224
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_LARGEST_INPUT = 1 << 28  # values of one image: a gigabyte in float32
_IMAGE_RANKS = (4, 3, 2)


@dataclass(frozen=True)
class TensorSpec:
    """A declared input or output.

    Attributes:
        name: its tensor name.
        dtype: numpy's name of the element type, "bfloat16" and the like included.
        shape: per axis a number, the name of a free dimension, or ``None`` where nothing is declared.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


class Model:
    """An ONNX model as it is deployed. Open one with :func:`onnxvis.load`.

    Nothing beyond the file is read until it is asked for: the canonical form, the layers and the
    torch conversion are made when first needed, and kept.

    Attributes:
        file: the file as it was found (``file.path``, ``file.sha256``, ``file.proto``).
        name: the file's name without its ending, or "model".
        inputs: declared inputs that are not weights.
        outputs: declared outputs.
        image_input: the input that takes the picture.
        labels: names of the classes, with their source.
        preprocessing: how a picture becomes the input, or ``None`` when nobody said.
        provider: the execution provider and why.
    """

    def __init__(
        self,
        file: ModelFile,
        preprocessing: Preprocessing | None,
        labels: Labels,
        provider: str | None = None,
        output: str | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        size: int | tuple[int, int] | None = None,
        gradients: str = "auto",
    ) -> None:
        self.file = file
        self._size = size
        self.name = file.path.stem if file.path else "model"
        self.preprocessing = preprocessing
        self.labels = labels
        self.inputs = _inputs(file.proto)
        self.outputs = tuple(_spec(value) for value in file.proto.graph.output)
        self.provider = choose_provider(provider)
        self._output = output
        self.image_input = _image_input(self.inputs, inputs or {})
        constants = _constants(self.inputs, inputs or {})
        self.engine = Engine(
            file.proto,
            lambda: self.canonical,
            self.provider,
            file.data_folder,
            self.image_input.name,
            constants,
            gradients,
        )

    # --- what the file says ----------------------------------------------------------------------

    @property
    def sha256(self) -> str:
        """Fingerprint of the .onnx file."""
        return self.file.sha256

    @property
    def producer(self) -> str:
        """Name and version of the exporter, as it signed the file."""
        return f"{self.file.proto.producer_name} {self.file.proto.producer_version}".strip() or "not stated"

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        versions = [o.version for o in self.file.proto.opset_import if o.domain in ("", "ai.onnx")]
        return max(versions, default=0)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata properties."""
        return {entry.key: entry.value for entry in self.file.proto.metadata_props}

    # --- what follows from the graph -------------------------------------------------------------

    @functools.cached_property
    def canonical(self) -> Canonical:
        """The canonical form, with weights in memory."""
        return canonicalize(with_weights(self.file))

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Concrete shape of every tensor of the canonical graph, measured by running it once on noise."""
        graph = self.canonical.model
        sample = np.random.default_rng(0).random(self.example_shape()).astype(np.float32)
        declared = next(v for v in graph.graph.input if v.name == self.image_input.name)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
        names = available_tensors(graph)
        feeds = {**self.engine.constants, self.image_input.name: sample.astype(dtype)}
        try:
            arrays = Sessions(graph, choose_provider("cpu")).run(feeds, names)
        except ModelError as error:
            free = [d for d in self.image_input.shape[1:] if not isinstance(d, int) or d <= 0]
            if not free:
                raise
            raise ModelError(
                f"{error} The input {self.image_input} leaves its size free, and {sample.shape} was tried: give one "
                "that the model takes with --size HEIGHT,WIDTH (size=... in Python)."
            ) from error
        return {name: tuple(array.shape) for name, array in arrays.items() if isinstance(array, np.ndarray)}

    @functools.cached_property
    def index(self) -> GraphIndex:
        """The canonical graph with its shapes, ready to be asked."""
        return GraphIndex(self.canonical.model, self.shapes)

    @functools.cached_property
    def logits(self) -> Logits:
        """The tensor that is explained: the chosen output before its final activation."""
        return self._in_the_file(
            find_logits(self.canonical.model, self._output, self.shapes, fields=self.fields, index=self.index)
        )

    def _in_the_file(self, found: Logits) -> Logits:
        """The same numbers under a name that the file has: back over the reshapes that only the rewriting added."""
        makers = {name: node for node in self.canonical.model.graph.node for name in node.output}
        tensor, classes = found.tensor, self.shapes[found.tensor][found.class_axis]
        while not self.in_file(tensor) and tensor in makers and makers[tensor].op_type in _RESHAPES:
            tensor = makers[tensor].input[0]
        shape = self.shapes.get(tensor, ())
        if tensor == found.tensor or not self.in_file(tensor) or len(shape) < 2 or shape[-1] != classes:
            return found
        kind = found.kind if math.prod(shape) == classes else "dense"
        reason = found.reason.replace(repr(found.tensor), repr(tensor))
        return dataclasses.replace(found, tensor=tensor, class_axis=len(shape) - 1, kind=kind, reason=reason)

    @functools.cached_property
    def output_form(self) -> OutputForm:
        """How one image's logits are laid out."""
        if self.logits.kind == "classifier":
            return OutputForm()
        axis = self.logits.class_axis - 1
        if self.logits.kind != "detection":
            return OutputForm(axis)
        rows = self.shapes[self.logits.tensor][self.logits.class_axis]
        boxes = rows - len(self.labels) if len(self.labels) and rows - len(self.labels) in (4, 5) else 0
        return OutputForm(axis, boxes, detector=True)

    @functools.cached_property
    def head(self) -> Head:
        """How the logits are made from the last feature map."""
        return find_head(self.canonical.model, self.logits, self.shapes, fields=self.fields, index=self.index)

    @functools.cached_property
    def fields(self) -> Mapping[str, TensorField]:
        """Receptive field of every tensor."""
        return receptive_fields(self.canonical.model, self.shapes, self.image_input.name, self.layout, index=self.index)

    @functools.cached_property
    def layers(self) -> list[Layer]:
        """The table of layers: tensor, operator, shape, parameters, receptive field."""
        return layer_table(self.canonical.model, self.shapes, self.fields, index=self.index)

    @property
    def labels_note(self) -> str:
        """What is to be said where there are more or fewer names than classes; empty where they fit."""
        names, form = len(self.labels), self.output_form
        classes = self.shapes[self.logits.tensor][self.logits.class_axis] - form.first_class
        if not names or names == classes or form.detector:
            return ""
        beside = classes > 1 and abs(names - classes) == 1
        offset = ": one of them may lack a background class, and every name be one off" if beside else ""
        return f"the labels name {names} classes and the model has {classes}{offset}; {self.labels.source}"

    def layer(self, name: str) -> str:
        """The tensor that a layer name stands for.

        Raises:
            LayerError: there is none; the nearest names are suggested.
        """
        if not isinstance(name, str):
            raise LayerError(f"a layer is named by a text, not by {name!r}; `onnxvis inspect` lists them.")
        return resolve_layer(name, self.index, self.layers)

    def in_file(self, tensor: str) -> bool:
        """Whether a tensor of the canonical graph exists in the deployed graph too."""
        return tensor not in self.canonical.twins

    # --- input -----------------------------------------------------------------------------------

    @property
    def layout(self) -> str:
        """The input layout, "NCHW" or "NHWC": as the preprocessing states it, else read off the declared shape."""
        if self.preprocessing is not None and self.preprocessing.layout:
            return self.preprocessing.layout
        shape = self.image_input.shape
        channels = (1, 2, 3, 4)
        last_is_small = len(shape) >= 3 and shape[-1] in channels
        first_is_small = len(shape) >= 3 and shape[-3] in channels
        return "NHWC" if last_is_small and not first_is_small else "NCHW"

    def one_image_shape(self) -> tuple[int, ...]:
        """:meth:`example_shape` for a single image, whatever batch the file fixes."""
        return (1, *self.example_shape()[1:])

    def example_shape(self) -> tuple[int, ...]:
        """The input shape, with a number for every free dimension; one image where the batch is free.

        Free height and width come from :func:`load`'s ``size``, then the preprocessing, else they are 224.
        """
        shape = self.image_input.shape
        spec = self.preprocessing
        size = self._size or ((spec.crop_size or spec.size) if spec else None)
        height, width = (size, size) if isinstance(size, int) else (size or (_DEFAULT_SIDE, _DEFAULT_SIDE))
        rank = len(shape)
        spatial = {rank - 2: height, rank - 1: width} if self.layout == "NCHW" else {rank - 3: height, rank - 2: width}
        free = {i: spatial.get(i, 3) for i in range(rank)} | {0: 1}
        if rank < 4:
            free[0] = 1
        return tuple(d if isinstance(d, int) and d > 0 else free[i] for i, d in enumerate(shape))

    def prepare(self, image: PictureSource | np.ndarray) -> Prepared:
        """Turn a picture into the model's input, with the geometry that leads back.

        Args:
            image: a path, bytes, a PIL image, an ``(H, W[, C]) uint8`` array, or a float array already in
                the model's input shape, used as it is; a torch tensor counts as the array that it holds.

        Raises:
            PictureError: it is not a picture, or an array of the wrong shape.
            PreprocessingError: nobody said how to prepare pictures for this model.
        """
        from onnxvis.picture import array_of, open_picture

        image = array_of(image)
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            return Prepared.from_array(image, self.image_input.shape, self._dtype(), self.layout)
        if self.preprocessing is None:
            from onnxvis.preprocessing import PRESETS

            raise PreprocessingError(
                f"nothing says how a picture becomes the input of {self.name!r}, and onnxvis does not guess. Pass "
                f"preprocessing=... (--preprocessing): one of {', '.join(PRESETS)}, or a TOML/JSON file. "
                "`onnxvis inspect MODEL IMAGE` shows what the model predicts under each preset."
            )
        prepared = self.preprocessing.prepare(open_picture(image), self.image_input.shape, self._dtype())
        if prepared.layout != self.layout:
            raise PreprocessingError(
                f"the input {self.image_input} could be {self.layout} or {prepared.layout}: say which with "
                "layout = ... in the preprocessing."
            )
        return prepared

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.image_input.dtype)

    # --- answers ---------------------------------------------------------------------------------

    def predict(
        self, images: PictureSource | Sequence[PictureSource], top: int = 5, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """What the deployed file answers: one :class:`~onnxvis.prediction.Prediction` per image.

        Args:
            images: one image or a list of them (see :meth:`prepare`).
            top: how many classes to name.
            batch_size: images at once, where the graph allows it.
        """
        from onnxvis.prediction import predict

        several = isinstance(images, list | tuple)
        given: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        prepared = [self.prepare(image) for image in given]
        answers = predict(self, [p.tensor for p in prepared], top, batch_size)
        return answers if several else answers[0]

    def gradient_refusal(self) -> str | None:
        """Why gradients cannot be had on this file, or ``None`` when they can."""
        try:
            self.engine.backend()
        except OnnxvisError as error:
            return str(error)
        return None

    def describe(self) -> dict[str, Any]:
        """Plain data for manifests and reports: what this model is."""
        return {
            "name": self.name,
            "path": str(self.file.path) if self.file.path else None,
            "sha256": self.sha256,
            "external_data": dict(self.file.external),
            "producer": self.producer,
            "opset": self.opset,
            "ir_version": self.file.proto.ir_version,
            "inputs": [str(spec) for spec in self.inputs],
            "outputs": [str(spec) for spec in self.outputs],
            "labels": self.labels.source,
            "provider": self.provider.name,
            "provider_reason": self.provider.reason,
            "gradients": self.engine.gradient_choice,
            "onnxruntime": onnxruntime_module().__version__,
        }

    def options(self) -> dict[str, Any]:
        """Arguments with which :func:`load` opens the same file in the same way: preprocessing, labels, provider ..."""
        return {
            "preprocessing": self.preprocessing,
            "labels": self.labels,
            "provider": self.provider.name,
            "output": self._output,
            "inputs": dict(self.engine.constants),
            "size": self._size,
            "gradients": self.engine.gradient_choice,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes as the file and the options; sessions are opened there anew."""
        return _opened_again, (self.file, self.options())

    def __repr__(self) -> str:
        return f"<onnxvis.Model {self.name!r} {self.image_input} -> {', '.join(map(str, self.outputs))}>"


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | Preprocessing | None = None,
    labels: LabelSource = None,
    provider: str | None = None,
    output: str | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    size: int | tuple[int, int] | None = None,
    gradients: str = "auto",
) -> Model:
    """Open an ONNX model.

    Args:
        source: path, bytes or ``ModelProto``.
        preprocessing: a preset's name, a TOML or JSON file, a mapping or a value. ``None`` looks beside the
            model and in its metadata; when nothing is found there, pictures are refused, never guessed.
        labels: a file, a list or a mapping of class names; ``None`` looks in the metadata and beside the model.
        provider: execution provider; ``None`` takes the best one that works.
        output: which graph output to explain; ``None`` chooses by structure and says why.
        inputs: values of the other inputs, for a model with several.
        size: height and width, where the model leaves them free: pictures are brought to it (unless the
            preprocessing states another), and the graph is analysed at it.
        gradients: who computes them: "torch", "onnx" (ONNX operators run by onnxruntime), or "auto": torch where it
            is installed and knows every operator, else onnx. The parity record names the one that did.

    Raises:
        OnnxvisError: the file, the preprocessing, the labels or the provider is not usable.
    """
    file = read_model(source)
    metadata = {entry.key: entry.value for entry in file.proto.metadata_props}
    spec = resolve(preprocessing, file.path, metadata)
    if spec is not None and size is not None:
        spec = spec.override(size=size)
    return Model(
        file,
        spec,
        load_labels(labels, metadata, file.path),
        provider,
        output,
        inputs,
        size,
        gradients,
    )


def _opened_again(file: ModelFile, options: dict[str, Any]) -> Model:
    return Model(file, **options)


def _inputs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    weights = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return tuple(_spec(value) for value in proto.graph.input if value.name not in weights)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return TensorSpec(value.name, value.type.WhichOneof("value") or "undeclared", ())
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except (KeyError, TypeError) as error:
        raise ModelError(f"{value.name!r} has an element type that onnx does not know ({tensor.elem_type}).") from error
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        kind = dim.WhichOneof("value")
        known = kind == "dim_value" and dim.dim_value > 0  # exporters write -1 or 0 where they mean a free one
        dims.append(dim.dim_value if known else (dim.dim_param or None))
    return TensorSpec(value.name, dtype, tuple(dims))


def _constants(inputs: Sequence[TensorSpec], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of the other inputs in the types that the graph declares."""
    dtypes = {spec.name: spec.dtype for spec in inputs}
    try:
        return {name: np.asarray(value).astype(np.dtype(dtypes[name])) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise ModelError(f"a value given for one of the model's other inputs does not fit: {error}.") from error


def _image_input(inputs: Sequence[TensorSpec], constants: Mapping[str, np.ndarray]) -> TensorSpec:
    if not isinstance(constants, Mapping):
        raise UsageError(f"values of other inputs are given as {{name: array}}, not as {type(constants).__name__}.")
    unknown = [name for name in constants if name not in {spec.name for spec in inputs}]
    if unknown:
        raise ModelError(f"the model has no input {unknown[0]!r}; its inputs: {', '.join(map(str, inputs))}.")
    open_inputs = [spec for spec in inputs if spec.name not in constants]
    pictures = [s for rank in _IMAGE_RANKS for s in open_inputs if len(s.shape) == rank and s.dtype != "int64"]
    if not pictures:
        raise ModelError(
            "the model has no input that could take a picture (a tensor of 4 axes); its inputs: "
            f"{', '.join(map(str, inputs)) or 'none'}."
        )
    declared = math.prod(d for d in pictures[0].shape if isinstance(d, int))
    if declared > _LARGEST_INPUT:
        raise ModelError(
            f"the input {pictures[0]} declares {declared:,} values or more, which no picture has. The file is damaged, "
            "or its shape was written wrongly: export it again."
        )
    rest = [spec for spec in open_inputs if spec is not pictures[0]]
    if rest:
        raise ModelError(
            f"besides the picture {str(pictures[0])!r} the model needs {', '.join(map(str, rest))}. "
            "Pass their values: load(..., inputs={name: array})."
        )
    return pictures[0]
