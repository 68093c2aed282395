"""What a generator is fed: latents, classes and noise, each sample drawn from its own seed.

Sample number i of a seed is the same whatever the batch it runs in, so a picture can be named by its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnxvis.errors import ModelError, UsageError, did_you_mean
from onnxvis.graph.index import GraphIndex

__all__ = ["Source", "draw", "find_sources"]

_ONE_HOT = ("class", "label", "onehot", "one_hot", "cond")
_PSI = ("trunc", "psi")


@dataclass(frozen=True, eq=False)
class Source:
    """One input of a generator.

    Attributes:
        name: of the input.
        kind: "latent" or "noise" (standard normal), "class" (whole numbers), "one-hot", or "fixed" (a given value).
        shape: of one sample, without the batch axis.
        dtype: numpy's element type.
        batched: whether the first axis counts samples.
        classes: number of classes, of the kinds that have some.
        value: of a fixed one; of a class, where every sample gets the same.
        reason: why it is taken for this.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    batched: bool = True
    classes: int = 0
    value: np.ndarray | None = None
    reason: str = ""

    def __str__(self) -> str:
        shape = ", ".join(map(str, (*(("N",) if self.batched else ()), *self.shape)))
        return f"{self.name} {self.dtype}[{shape}]: {self.kind}, {self.reason}"


def draw(sources: Sequence[Source], ids: Sequence[int], seed: int, truncation: float | None) -> dict[str, np.ndarray]:
    """The feeds for some samples.

    Args:
        sources: the inputs, in an order that must stay the same.
        ids: numbers of the samples.
        seed: of the run.
        truncation: latents beyond this are drawn again (Brock et al., "BigGAN", ICLR 2019, section 3.1); ``None``
            draws from the whole normal distribution.
    """
    if seed < 0 or any(i < 0 for i in ids):
        raise UsageError(f"a seed and the numbers of samples are 0 or more, not {seed} and {min(ids)}.")
    generators = [np.random.default_rng([seed, int(i)]) for i in ids]
    feeds = {}
    for source in sources:
        if source.kind == "fixed" and source.value is not None:
            value = source.value
            feeds[source.name] = np.repeat(value[None], len(ids), axis=0) if source.batched else value
        else:
            feeds[source.name] = np.stack([_one(source, rng, truncation) for rng in generators])
    return feeds


def _one(source: Source, rng: np.random.Generator, truncation: float | None) -> np.ndarray:
    if source.kind in ("class", "one-hot"):
        number = int(rng.integers(source.classes)) if source.value is None else int(source.value)
        if source.kind == "class":
            return np.full(source.shape, number, source.dtype)
        return np.asarray(np.eye(source.classes, dtype=source.dtype)[number].reshape(source.shape))
    values = rng.standard_normal(source.shape)
    if truncation is not None and source.kind == "latent":
        while (beyond := np.abs(values) > truncation).any():
            values[beyond] = rng.standard_normal(int(beyond.sum()))
    return np.asarray(values.astype(source.dtype))


def find_sources(
    model: onnx.ModelProto,
    index: GraphIndex,
    given: Mapping[str, Any],
    latent: str | None = None,
    latent_shape: Sequence[int] | None = None,
) -> tuple[Source, ...]:
    """What each input of a generator is.

    Args:
        model: the generator.
        index: of the same model.
        given: values by input name: an array or number for everything, a class for class inputs.
        latent: which input is the latent; the only one that holds floats, or the largest of those, if left out.
        latent_shape: of one latent, where the file leaves it free.

    Raises:
        UsageError: a name or value that does not fit, or an input that cannot be guessed and has no value.
        ModelError: no input could be a latent.
    """
    declared = {v.name: v.type.tensor_type for v in model.graph.input if v.name in index.inputs}
    wrong = [name for name in (*given, *([latent] if latent else [])) if name not in declared]
    if wrong:
        hint = did_you_mean(wrong[0], declared)
        raise UsageError(f"the generator has no input {wrong[0]!r}; it has {', '.join(declared)}.{hint}")
    chosen, why = (latent, "named") if latent else _latent(declared, given)
    return tuple(
        _source(index, name, kind, given.get(name), (chosen, why), latent_shape) for name, kind in declared.items()
    )


def _latent(declared: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, str]:
    floats = {
        name: kind
        for name, kind in declared.items()
        if name not in given and _dtype(name, kind).kind == "f" and len(kind.shape.dim) >= 2 and not _looks(name, _PSI)
    }
    plain = {name: kind for name, kind in floats.items() if not _looks(name, _ONE_HOT) and "noise" not in name.lower()}
    pool = plain or floats
    if not pool:
        raise ModelError(
            f"no input of this model could be a latent (floats of shape (N, Z) or (N, Z, 1, 1)); it has: "
            f"{', '.join(declared) or 'none'}. A generator is needed."
        )
    sizes = {name: int(np.prod([max(d.dim_value, 1) for d in kind.shape.dim][1:])) for name, kind in pool.items()}
    if len(pool) == 1:
        return next(iter(pool)), "the only input that holds floats" if len(floats) == 1 else "the latent by its name"
    named = [name for name in pool if name.lower() in ("z", "w", "latent", "latents", "input")]
    if len(named) == 1:
        return named[0], "the latent by its name"
    return max(sizes, key=lambda name: sizes[name]), "the largest input that holds floats"


def _source(
    index: GraphIndex,
    name: str,
    kind: Any,
    value: Any,
    latent: tuple[str, str],
    latent_shape: Sequence[int] | None,
) -> Source:
    dtype = _dtype(name, kind)
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    batched = len(dims) >= 1 and not (_looks(name, _PSI) and dims in ([], [1]))
    is_latent = name == latent[0]
    inner = dims[1:] if batched else dims
    if is_latent and latent_shape is not None:
        inner = [int(n) for n in latent_shape]
    shape = tuple(n for n in inner if n is not None)
    source = Source(name, "latent", shape, dtype, batched, reason=latent[1])
    number = value is not None and np.ndim(value) == 0
    if dtype.kind in "iu" and (value is None or number):
        return _classes(index, replace(source, kind="class", reason="whole numbers"), value)
    if value is None and len(shape) < len(inner):
        raise UsageError(
            f"the shape of input {name!r} is not known (declared {dims}). Say the shape of one sample with "
            "latent_shape=... (--latent-shape), or give the input a value (--input NAME=VALUE)."
        )
    if is_latent:
        return source if value is None else _fixed(source, value)
    if _looks(name, _ONE_HOT) and len(shape) == 1 and shape[0] > 1 and (value is None or number):
        return replace(
            source,
            kind="one-hot",
            classes=shape[0],
            value=None if value is None else np.asarray(_a_class(name, value, shape[0])),
            reason="one entry for each class, by its name" + ("" if value is not None else "; drawn evenly"),
        )
    if value is not None:
        return _fixed(source, value)
    if not batched or not shape:
        raise UsageError(
            f"the generator needs a value for input {name!r}: --input {name}=VALUE (inputs=... in Python)."
        )
    return replace(source, kind="noise", reason="floats beside the latent: standard normal")


def _fixed(source: Source, value: Any) -> Source:
    try:
        array = np.asarray(value).astype(source.dtype)
        array = np.broadcast_to(array, source.shape) if array.ndim <= len(source.shape) else array.reshape(source.shape)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the value for input {source.name!r} does not fit its shape {source.shape}: {error}."
        ) from error
    return replace(source, kind="fixed", value=np.ascontiguousarray(array), reason="a value was given")


def _classes(index: GraphIndex, source: Source, value: Any) -> Source:
    """A class input: how many classes there are is read off the table that it looks up."""
    rows = 0
    for node in index.consumers(source.name):
        if node.op_type == "Gather" and node.input[1] == source.name:
            rows = (index.constant_shape(node.input[0]) or (0,))[index.attrs(node).get("axis", 0)]
        elif node.op_type == "OneHot" and (depth := index.constant(node.input[1])) is not None:
            rows = int(depth.reshape(-1)[0])
    if value is not None:
        number = int(value) if not rows else _a_class(source.name, value, rows)
        return replace(source, value=np.asarray(number), classes=rows or number + 1, reason=f"class {number}, as given")
    if not rows:
        raise UsageError(
            f"input {source.name!r} takes whole numbers and nothing in the graph says how many there are: give it a "
            f"value with --input {source.name}=NUMBER (inputs=... in Python)."
        )
    return replace(source, classes=rows, reason=f"{rows} classes, read off the table it looks up; drawn evenly")


def _a_class(name: str, value: Any, count: int) -> int:
    number = int(value)
    if not 0 <= number < count:
        raise UsageError(f"input {name!r} has classes 0 to {count - 1}, not {value}.")
    return number


def _looks(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)


def _dtype(name: str, kind: Any) -> np.dtype[Any]:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError) as error:
        raise ModelError(f"input {name!r} has an element type that onnx does not know ({kind.elem_type}).") from error
