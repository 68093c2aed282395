"""A generator as it is deployed: latents in, pictures out, and its layers."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxvis.behaviour.gan.layers import GeneratorLayer, choose_layer, feature_maps
from onnxvis.behaviour.gan.ranges import ValueRange, find_range, parse_range
from onnxvis.behaviour.gan.sources import Source, draw, find_sources
from onnxvis.errors import LayerError, ModelError, UsageError, did_you_mean
from onnxvis.graph.batch import fixed_batch
from onnxvis.graph.canonical import Canonical, canonicalize
from onnxvis.graph.index import GraphIndex
from onnxvis.modelfile import ModelFile, read_model, with_weights
from onnxvis.runtime.batching import compare
from onnxvis.runtime.providers import choose_provider
from onnxvis.runtime.session import Sessions

__all__ = ["Generator", "Samples", "open_generator"]

_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
_TOLERANCE = 1e-4
_LEAST_TRUNCATION = 0.05
_SMALLEST_PICTURE = 8
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples of one run.

    Attributes:
        ids: their numbers ``(N,)``.
        feeds: what the generator was fed.
        pictures: ``(N, H, W, 3) uint8``.
        tensors: whatever else was asked for, by name, ``(N, ...)``.
    """

    ids: np.ndarray
    feeds: Mapping[str, np.ndarray]
    pictures: np.ndarray
    tensors: Mapping[str, np.ndarray]


class Generator:
    """A deployed generator. Open one with :func:`open_generator`.

    Attributes:
        file: the file as it was found.
        name: its name without ending, or "generator".
        sources: its inputs and what each of them is fed.
        output: the tensor that holds the pictures.
        layout: of the pictures: "NCHW" or "NHWC".
        size: (height, width) of the pictures.
        range: the values that stand for black and bright, and how they are known.
        truncation: where latents are cut, or None.
        provider: where it runs, and why.
        batch: samples at once.
        batch_note: one sentence on that.
    """

    def __init__(
        self,
        file: ModelFile,
        sources: Sequence[Source],
        output: str,
        value_range: ValueRange | None,
        truncation: float | None,
        provider: str | None,
        batch_size: int,
    ) -> None:
        self.file = file
        self.name = file.path.stem if file.path else "generator"
        self.sources = tuple(sources)
        self.output = output
        self.truncation = truncation
        self.provider = choose_provider(provider)
        self.sessions = Sessions(file.proto, self.provider, file.data_folder)
        self.index = GraphIndex(file.proto)
        latent = next((s.name for s in self.sources if s.kind == "latent"), self.sources[0].name)
        self.fixed = fixed_batch(file.proto, latent)
        self.batch, self.batch_note = 1, ""
        first = self._run_rows(self.feeds([0], 0), (output,))[output]
        self.layout, self.size = _picture_form(output, first)
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(first.dtype)
        self.range = value_range or find_range(self.index, output, elem_type)
        self.batch, self.batch_note = self._plan(batch_size)

    # --- running ---------------------------------------------------------------------------------

    def feeds(self, ids: Sequence[int], seed: int) -> dict[str, np.ndarray]:
        """What samples of these numbers are fed."""
        return draw(self.sources, ids, seed, self.truncation)

    def sample(self, ids: Sequence[int], seed: int = 0, tensors: Sequence[str] = ()) -> Samples:
        """Pictures of the unedited file, with inner tensors if asked for.

        Args:
            ids: numbers of the samples; a number and a seed always give the same picture.
            seed: of the run.
            tensors: inner tensors to return too. The pictures come from the session that exposes them.
        """
        feeds = self.feeds(ids, seed)
        found = self.run(self.sessions, feeds, (self.output, *(t for t in tensors if t != self.output)))
        return Samples(np.asarray(ids), feeds, self.to_pictures(found[self.output]), found)

    def stream(self, ids: Sequence[int], seed: int = 0, tensors: Sequence[str] = ()) -> Iterator[Samples]:
        """The same in batches, so that memory does not grow with the number of samples."""
        step = max(self.batch, 1)
        for start in range(0, len(ids), step):
            yield self.sample(ids[start : start + step], seed, tensors)

    def run(self, sessions: Sessions, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run a graph that has this generator's inputs, in batches that it takes.

        Args:
            sessions: of the file, or of an edited graph.
            feeds: inputs; those with as many rows as the latent are cut into batches, others are given whole.
            outputs: tensors to return.
        """
        rows = self._rows(feeds)
        parts = []
        for start in range(0, rows, self.batch):
            part = {n: self._cut(n, a, rows, start) for n, a in feeds.items()}
            parts.append(self._run_rows(part, outputs, sessions))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def to_pictures(self, values: np.ndarray) -> np.ndarray:
        """Raw output as ``(N, H, W, 3) uint8``; gray is repeated, a fourth channel dropped.

        Raises:
            ModelError: NaN, which is no color.
        """
        if values.dtype.kind == "f" and (wrong := np.isnan(values).reshape(len(values), -1).any(axis=1)).any():
            raise ModelError(
                f"output {self.output!r} of {self.name!r} is NaN in {int(wrong.sum())} of {len(values)} samples, and "
                "no color stands for that. Less extreme latents (--truncation 1) or other values for its inputs "
                "(--input) may help; under an intervention, a smaller --value."
            )
        moved = np.moveaxis(values, 1, -1) if self.layout == "NCHW" else values
        rgb = moved[..., :3] if moved.shape[-1] >= 3 else np.repeat(moved[..., :1], 3, axis=-1)
        return self.range.to_bytes(rgb) if values.dtype != np.uint8 else np.ascontiguousarray(rgb)

    def _rows(self, feeds: Mapping[str, np.ndarray]) -> int:
        names = [s.name for s in self.sources if s.batched and s.name in feeds]
        return len(feeds[names[0]]) if names else 1

    def _cut(self, name: str, array: np.ndarray, rows: int, start: int) -> np.ndarray:
        shared = any(s.name == name and not s.batched for s in self.sources) or array.ndim == 0 or len(array) != rows
        return array if shared else array[start : start + self.batch]

    def _run_rows(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str], sessions: Sessions | None = None
    ) -> dict[str, np.ndarray]:
        """One batch; a fixed batch is filled with copies of the last sample."""
        rows, fixed = self._rows(feeds), self.fixed
        if fixed and rows < fixed:
            feeds = {
                n: a if a.ndim == 0 or len(a) != rows else np.concatenate([a, np.repeat(a[-1:], fixed - rows, axis=0)])
                for n, a in feeds.items()
            }
        found = (sessions or self.sessions).run(feeds, outputs)
        short = [n for n, a in found.items() if a.ndim == 0 or len(a) < rows]
        if short:
            raise ModelError(f"tensor {short[0]!r} has no batch axis ({found[short[0]].shape} for {rows} samples).")
        return {name: array[:rows] for name, array in found.items()}

    def _plan(self, batch_size: int) -> tuple[int, str]:
        if self.fixed:
            return self.fixed, f"the file fixes the batch at {self.fixed}"
        feeds = self.feeds(range(3), 0)
        alone = self.run(self.sessions, feeds, (self.output,))
        try:
            together = self._run_rows(feeds, (self.output,))
        except ModelError as error:
            return 1, f"samples run one by one: a batch fails ({str(error)[:120]})"
        wrong = compare(together, alone, 3, _TOLERANCE)
        if wrong is not None:
            return 1, f"samples run one by one: {wrong}"
        return batch_size, f"{batch_size} samples at once; three together gave what they gave one by one"

    # --- the graph -------------------------------------------------------------------------------

    @functools.cached_property
    def layers(self) -> tuple[GeneratorLayer, ...]:
        """Its feature maps, from the latent to the picture."""
        feeds = self.feeds([0], 0)
        return feature_maps(self.index, lambda names: self._run_rows(feeds, names), self.output, self.layout)

    def layer(self, name: str | None = None) -> GeneratorLayer:
        """A feature map by its tensor's name (or the end of it), or the one that is chosen by itself.

        Raises:
            LayerError: there is none, or the name fits none or several.
        """
        if name is None:
            return choose_layer(self.layers, self.size)
        exact = [row for row in self.layers if name in (row.tensor, row.node)]
        found = exact or [row for row in self.layers if row.tensor.endswith(name)]
        if len(found) != 1:
            known = [row.tensor for row in self.layers]
            what = "no feature map" if not found else f"{len(found)} feature maps"
            raise LayerError(
                f"the generator has {what} called {name!r}.{did_you_mean(name, known)} `onnxvis gan dissect "
                "GENERATOR --layers` lists them."
            )
        return found[0]

    @functools.cached_property
    def canonical(self) -> Canonical:
        """The canonical form, for gradients and for files of old operator sets."""
        return canonicalize(with_weights(self.file))

    def describe(self) -> dict[str, Any]:
        """Plain data for manifests."""
        return {
            "name": self.name,
            "path": str(self.file.path) if self.file.path else None,
            "sha256": self.file.sha256,
            "inputs": [str(s) for s in self.sources],
            "output": self.output,
            "picture": {"height": self.size[0], "width": self.size[1], "layout": self.layout},
            "value_range": str(self.range),
            "truncation": self.truncation,
            "provider": self.provider.name,
            "batch": self.batch_note,
        }


def open_generator(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    latent: str | None = None,
    latent_shape: Sequence[int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    output: str | None = None,
    value_range: str | Sequence[float] | None = None,
    truncation: float | None = None,
    provider: str | None = None,
    batch_size: int = 16,
) -> Generator:
    """Open a generator.

    Args:
        source: path, bytes or ``ModelProto``.
        latent: name of the latent input, where the choice by itself is wrong.
        latent_shape: of one latent, where the file leaves it free.
        inputs: values for inputs that are not to be drawn: a class, a truncation, an array.
        output: which output holds the pictures; the first that looks like pictures if left out.
        value_range: "tanh", "unit", "byte" or two numbers; read off the graph if left out.
        truncation: latents beyond this many standard deviations are drawn again.
        provider: execution provider; ``None`` takes the best one that works.
        batch_size: samples at once, where the file leaves the batch free.

    Raises:
        ModelError: it is no generator, or does not run.
        UsageError: something about it cannot be known and was not said.
    """
    file = read_model(source)
    if truncation is not None and not truncation >= _LEAST_TRUNCATION:
        raise UsageError(
            f"a truncation is a number of standard deviations from {_LEAST_TRUNCATION:g}, not {truncation!r}: "
            "below that all samples are nearly the same picture."
        )
    if batch_size < 1:
        raise UsageError(f"a batch holds at least one sample, not {batch_size!r}.")
    index = GraphIndex(file.proto)
    chance = [node for node in index.nodes if node.op_type in _RANDOM]
    if chance:
        raise ModelError(
            f"the generator draws random numbers itself ({chance[0].op_type} {index.label(chance[0])!r}), so no sample "
            "could be made twice and no intervention be measured. Export it with its noise as an input or a constant."
        )
    sources = find_sources(file.proto, index, inputs or {}, latent, latent_shape)
    chosen = _output(file.proto, output)
    limits = None if value_range is None else parse_range(value_range)
    generator = Generator(file, sources, chosen, limits, truncation, provider, batch_size)
    if latent is None:
        _refuse_pictures(generator)
    return generator


def _refuse_pictures(generator: Generator) -> None:
    """A network that changes pictures would be fed random numbers in their place, and answer all the same."""
    for source in generator.sources:
        if source.kind != "latent" or len(source.shape) != 3:
            continue
        channels, *size = source.shape if generator.layout == "NCHW" else (source.shape[2], *source.shape[:2])
        if tuple(size) == generator.size or (channels in (1, 3) and min(size) >= _SMALLEST_PICTURE):
            raise ModelError(
                f"input {source.name!r} has the shape of a picture ({channels} x {size[0]} x {size[1]}): this network "
                "changes pictures and draws none from numbers, and random numbers in the place of a picture would say "
                f"nothing about it. If it is a latent all the same: open_generator(..., latent={source.name!r})."
            )


def _output(model: onnx.ModelProto, wanted: str | None) -> str:
    names = [str(value.name) for value in model.graph.output]
    if wanted is not None:
        if wanted not in names:
            raise UsageError(f"the generator has no output {wanted!r}.{did_you_mean(wanted, names)}")
        return wanted
    ranks = {str(v.name): len(v.type.tensor_type.shape.dim) for v in model.graph.output}
    return next((name for name in names if ranks[name] == 4), names[0])


def _picture_form(output: str, values: np.ndarray) -> tuple[str, tuple[int, int]]:
    shape = values.shape
    if len(shape) == 4 and shape[1] in _CHANNELS and min(shape[2:]) > 1:
        return "NCHW", (shape[2], shape[3])
    if len(shape) == 4 and shape[3] in _CHANNELS and min(shape[1:3]) > 1:
        return "NHWC", (shape[1], shape[2])
    raise ModelError(
        f"output {output!r} has shape {shape}, which is no batch of pictures (1, 3 or 4 channels): the model is no "
        "generator of pictures, or another output holds them (--output)."
    )
