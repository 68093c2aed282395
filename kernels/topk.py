"""The strongest activations of every unit over a data set, in one pass and bounded memory.

The order is total: larger values first, then smaller image numbers, then smaller places. So the answer depends
neither on the batches nor on the order in which images come, and two passes over two halves merge into what one
pass over the whole gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.errors import UsageError

__all__ = ["COMPILED_FROM", "TopK"]

COMPILED_FROM = 1 << 20
"""Values in one call from which the numba kernel is used: some calls, and it has saved what loading it costs."""


class TopK:
    """The k largest values of each unit, with the image and the place of each.

    Args:
        units: number of units U.
        k: how many to keep.
        one_per_image: keep only the strongest place of each image, as figures of "top images" want it.

    Attributes:
        values: ``(U, k)`` float32, descending; -inf where fewer have been seen.
        images: ``(U, k)`` int64, the numbers given to :meth:`add`; -1 where fewer have been seen.
        places: ``(U, k)`` int64, index into the flattened places of the unit's map; -1 likewise.

    Raises:
        UsageError: ``units`` or ``k`` below 1.
    """

    def __init__(self, units: int, k: int, *, one_per_image: bool = True) -> None:
        if units < 1 or k < 1:
            raise UsageError(f"The top k needs at least one unit and k of at least 1; got {units} units, k = {k}.")
        self.one_per_image = one_per_image
        self.values: NDArray[np.float32] = np.full((units, k), -np.inf, np.float32)
        self.images: NDArray[np.int64] = np.full((units, k), -1, np.int64)
        self.places: NDArray[np.int64] = np.full((units, k), -1, np.int64)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.values.shape[0])

    @property
    def k(self) -> int:
        """How many are kept."""
        return int(self.values.shape[1])

    def add(
        self,
        activations: ArrayLike,
        images: ArrayLike,
        *,
        grid: tuple[int, int] | None = None,
        compiled: bool | None = None,
    ) -> None:
        """Take in the activations of some images.

        Args:
            activations: ``(N, U, ...)``: images, units, places (none, for units without places). NaN and -inf are
                left out.
            images: ``(N,)`` whole numbers of at least 0 that name the images. No image may be added twice.
            grid: (columns of the map, columns to count with), for maps of several widths: row r, column c is then place
                ``r * grid[1] + c``.
            compiled: whether the numba kernel counts; ``None`` decides by the size. The answer is the same.

        Raises:
            UsageError: the shapes do not fit, or an image number is negative.
        """
        given = np.asarray(activations, dtype=np.float32)
        numbers = np.ascontiguousarray(images, dtype=np.int64)
        if given.ndim < 2 or given.shape[1] != self.units or numbers.shape != given.shape[:1]:
            raise UsageError(
                f"Activations must be (N, {self.units}, ...) with one number for each image; got {given.shape} and "
                f"{numbers.shape}."
            )
        if (numbers < 0).any():
            raise UsageError("Image numbers must not be negative.")
        if not given.size:
            return
        values = np.ascontiguousarray(given.reshape(*given.shape[:2], -1))
        width, columns = grid or (values.shape[2], values.shape[2])
        if values.size >= COMPILED_FROM if compiled is None else compiled:
            self._add_compiled(values, numbers, (width, columns))
        else:
            self._add(values, numbers, (width, columns))

    def merge(self, other: TopK) -> None:
        """Take in what another one found on other images.

        Raises:
            UsageError: it counts other units, another k, or places in another way.
        """
        if (other.units, other.k, other.one_per_image) != (self.units, self.k, self.one_per_image):
            raise UsageError(
                f"Only top-k results of one kind merge: {self.units} units, k = {self.k}, one per image "
                f"{self.one_per_image} and {other.units}, {other.k}, {other.one_per_image} do not."
            )
        self._keep(other.values, other.images, other.places)

    def _add(self, values: NDArray[np.float32], numbers: NDArray[np.int64], grid: tuple[int, int]) -> None:
        clean = np.where(np.isnan(values), np.float32(-np.inf), values)
        n, units, size = clean.shape
        if self.one_per_image:
            best = clean.argmax(axis=2)
            found = np.take_along_axis(clean, best[..., None], axis=2)[..., 0].T
            self._keep(found, np.broadcast_to(numbers, (units, n)), _placed(best.T, grid))
            return
        # Several at one image: no more than k of them can stay.
        for number, map in zip(numbers, clean, strict=True):
            place = np.argsort(-map, axis=1, kind="stable")[:, : self.k] if size > 1 else np.zeros((units, 1), int)
            self._keep(np.take_along_axis(map, place, axis=1), np.full(place.shape, number), _placed(place, grid))

    def _keep(self, values: NDArray[np.float32], images: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        values = np.concatenate([self.values, values], axis=1)
        absent = np.isneginf(values)
        images = np.where(absent, -1, np.concatenate([self.images, images], axis=1))
        places = np.where(absent, -1, np.concatenate([self.places, places], axis=1))
        order = np.lexsort((places, images, -values), axis=1)[:, : self.k]
        self.values = np.take_along_axis(values, order, axis=1)
        self.images = np.take_along_axis(images, order, axis=1)
        self.places = np.take_along_axis(places, order, axis=1)

    def _add_compiled(self, values: NDArray[np.float32], numbers: NDArray[np.int64], grid: tuple[int, int]) -> None:
        from onnxvis.kernels._jit import for_row_blocks
        from onnxvis.kernels._topk_compiled import keep_largest

        def work(start: int, stop: int) -> None:
            keep_largest(values, numbers, self.values, self.images, self.places, self.one_per_image, grid, start, stop)

        for_row_blocks(work, self.units)


def _placed(places: NDArray[np.int64], grid: tuple[int, int]) -> NDArray[np.int64]:
    row, column = np.divmod(places, grid[0])
    return np.asarray(row * grid[1] + column, np.int64)
