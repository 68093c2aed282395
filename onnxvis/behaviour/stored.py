"""What the questions to a store need of it, and the pictures it was made of.

The questions (patches, masks, dissection, neighbors, projection) know a store only by :class:`Reader`, so that they
work on whatever answers these calls. Pictures are opened again from where they were when the pass read them, and
compared with the fingerprint it took: a picture that moved or changed is an error that names it, never a wrong patch.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import LayerError, PictureError, UsageError, did_you_mean
from onnxvis.locations import location_name

if TYPE_CHECKING:
    from onnxvis.preprocessing import Prepared

__all__ = ["Concepts", "Pictures", "Places", "Reader", "Row", "choose_layers", "good_rows"]


class Row(Protocol):
    """One picture of the store; ``error`` is empty where it could be read."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def error(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str | None: ...  # noqa: D102
    @property
    def top(self) -> tuple[tuple[int, str, float], ...]: ...  # noqa: D102


class Places(Protocol):
    """The strongest places of every unit: ``(U, K)`` each, values descending; picture -1 where there are fewer."""

    @property
    def values(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def picture(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def row(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def col(self) -> NDArray[Any]: ...  # noqa: D102


class Concepts(Protocol):
    """Counts of a pass that saw concept masks: names, and pixels in masks ``(U,)``, concepts ``(K,)`` and both."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def quantile(self) -> float: ...  # noqa: D102
    @property
    def thresholds(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def both(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def masked(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def labeled(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def pictures(self) -> int: ...  # noqa: D102


class Reader(Protocol):
    """A finished pass over a data set."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def embedding_layer(self) -> str: ...  # noqa: D102
    def pictures(self) -> Sequence[Row]: ...  # noqa: D102
    def embeddings(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...  # noqa: D102
    def top(self, layer: str) -> Places: ...  # noqa: D102
    def quantile(self, layer: str, q: float) -> NDArray[np.float32]: ...  # noqa: D102
    def maps(self, layer: str, ids: Sequence[int]) -> NDArray[np.float16] | None: ...  # noqa: D102
    def iou(self, layer: str) -> Concepts | None: ...  # noqa: D102


def good_rows(store: Reader) -> list[Row]:
    """The pictures that were read.

    Raises:
        UsageError: there is none.
    """
    rows = [row for row in store.pictures() if not row.error]
    if not rows:
        raise UsageError("the store holds no picture that could be read: index some first (`onnxvis index`).")
    return rows


def choose_layers(store: Reader, asked: Iterable[str], resolve: Callable[[str], str] | None = None) -> tuple[str, ...]:
    """The layers asked for, or all of the store's.

    Args:
        store: the store.
        asked: names.
        resolve: the tensor that another name of a layer stands for (``model.layer``).

    Raises:
        LayerError: the store has no such layer; the nearest are suggested.
    """
    names = [n if n in store.layers or resolve is None else _resolved(n, resolve) for n in asked]
    chosen = tuple(dict.fromkeys(names)) or tuple(store.layers)
    for name in chosen:
        if name not in store.layers:
            raise LayerError(
                f"the store holds nothing about layer {name!r}; it was made with {', '.join(store.layers) or 'none'}."
                f"{did_you_mean(name, store.layers)} Index again with --layers to add one."
            )
    if not chosen:
        raise LayerError("the store was made without layers: index again with --layers.")
    return chosen


def _resolved(name: str, resolve: Callable[[str], str]) -> str:
    try:
        return resolve(name)
    except LayerError:
        return name  # refused below, with the names that the store has


class Pictures:
    """Opens the pictures of a store as the model was shown them; the last few stay in memory.

    Args:
        rows: the store's pictures.
        prepare: from a path to the model's input, as the pass did it.
        keep: bytes of prepared inputs that stay in memory, at most; one stays in any case.
    """

    def __init__(self, rows: Iterable[Row], prepare: Callable[[str], Prepared], keep: int = 200_000_000) -> None:
        self.rows: dict[int, Row] = {row.id: row for row in rows}
        self._prepare = prepare
        self._keep = keep
        self._held: OrderedDict[int, Prepared] = OrderedDict()

    def row(self, id: int) -> Row:
        """The store's line about a picture.

        Raises:
            UsageError: the store has no picture of that number.
        """
        if id not in self.rows:
            raise UsageError(f"the store has no picture {id}; its pictures are numbered 0 to {max(self.rows)}.")
        return self.rows[id]

    def name(self, id: int) -> str:
        """The file name of a picture."""
        return location_name(self.row(id).path)

    def prepared(self, id: int) -> Prepared:
        """The model's input of a picture, with the geometry that leads back, without the picture itself.

        Raises:
            PictureError: it is gone, or another one by now.
        """
        if id in self._held:
            self._held.move_to_end(id)
            return self._held[id]
        found = self._held[id] = self.read(id)
        while len(self._held) > 1 and sum(p.tensor.nbytes for p in self._held.values()) > self._keep:
            self._held.popitem(last=False)
        return found

    def read(self, id: int) -> Prepared:
        """As :meth:`prepared`, but read anew and not held: for threads, and for passes over all pictures."""
        row = self.row(id)
        try:
            prepared = self._prepare(row.path)
        except PictureError as error:
            raise PictureError(
                f"picture {id} of the store cannot be opened again: {error} The store remembers paths, not pictures: "
                "put the file back, or index the pictures where they are now."
            ) from error
        now = prepared.picture.sha256 if prepared.picture is not None else ""
        if now != row.sha256:
            raise PictureError(
                f"picture {id}, {row.path}, is not the one that was indexed (SHA-256 {now[:12]}..., then "
                f"{row.sha256[:12]}...): what the store says of it is about another picture. Index it again."
            )
        # The picture may have any number of pixels: only the input stays in memory.
        return dataclasses.replace(prepared, picture=None)
