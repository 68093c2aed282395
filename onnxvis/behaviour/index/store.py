"""A finished pass over a data set, ready to be asked without running the model again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxvis.behaviour.index.concepts import ConceptCounts, ConceptTally
from onnxvis.behaviour.index.nearest import candidates, exact_nearest, matrix
from onnxvis.behaviour.index.remote import RemoteStore, is_remote
from onnxvis.behaviour.index.rows import CONCEPTS, MANIFEST, TALLIES, PictureRow, lance_module, open_table, read_rows
from onnxvis.behaviour.index.rows import PLAIN as ROW_COLUMNS
from onnxvis.behaviour.index.tally import LayerTally, Tally, TopPlaces
from onnxvis.behaviour.index.tally_files import TallyFolder
from onnxvis.errors import LayerError, OnnxvisError, UsageError, did_you_mean
from onnxvis.progress import Progress, silent

__all__ = ["ANN_FROM", "ConceptCounts", "Metric", "PictureRow", "Store", "TopPlaces"]

Metric = Literal["euclidean", "cosine"]

FORMAT = 1
ANN_FROM = 50_000
"""Vectors from which :meth:`Store.nearest` asks an approximate index instead of comparing with each."""


class Store:
    """What `onnxvis index` wrote. Open one with :meth:`open`.

    Attributes:
        path: the folder; of a store by URL that of its copy.
        shown: where the store is, for people.
        manifest: the model, its file and preprocessing, the layers, the options, versions and the command.
        complete: whether every picture of the listing is in it; an incomplete one answers for those that are.
        layers: tensors whose units were counted.
        embedding_layer: the tensor that embeddings come from.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], shown: str = "") -> None:
        self.path = path
        self.shown = shown or str(path)
        self.manifest = manifest
        self.complete = bool(manifest["complete"])
        self.layers: tuple[str, ...] = tuple(layer["tensor"] for layer in manifest["layers"])
        self.embedding_layer: str = manifest["embedding"]["tensor"]

    @classmethod
    def open(cls, path: str | os.PathLike[str], progress: Progress = silent) -> Store:
        """Open a store: a folder, or one by URL, which is copied to this machine first where it is not there yet.

        Args:
            path: of the folder, or the URL.
            progress: called with (stage, done, total) while it is copied.

        Raises:
            OnnxvisError: it is not one, or was written by a later version.
            DependencyError: Lance is not installed.
        """
        lance_module()
        remote = RemoteStore(str(path)) if is_remote(path) else None
        folder = Path(path) if remote is None else remote.fetch(progress)
        return cls.in_folder(folder, "" if remote is None else remote.shown)

    @classmethod
    def in_folder(cls, folder: Path, shown: str = "") -> Store:
        """Open the store in a folder.

        Raises:
            OnnxvisError: see :meth:`open`.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version = manifest["onnxvis_store"]
        except FileNotFoundError:
            missing = "does not exist" if not folder.exists() else "holds no finished or begun index"
            raise OnnxvisError(f"{folder} {missing}. Make one: onnxvis index MODEL IMAGES --out {folder}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OnnxvisError(f"{folder / MANIFEST} is not the manifest of a store ({error}). Index again.") from error
        if version != FORMAT:
            raise OnnxvisError(f"{folder} has store format {version}, this onnxvis reads {FORMAT}. Index again.")
        return cls(folder, manifest, shown)

    # --- pictures --------------------------------------------------------------------------------

    @functools.cached_property
    def _table(self) -> Any:
        return open_table(self.path)

    def pictures(self) -> list[PictureRow]:
        """Every picture, those that failed included, sorted by number."""
        return list(self._rows)

    @functools.cached_property
    def _rows(self) -> list[PictureRow]:
        return [] if self._table is None else read_rows(self._table.to_table(columns=list(ROW_COLUMNS)))

    def failures(self, most: int) -> list[PictureRow]:
        """The first pictures that were left out, without reading the others."""
        if self._table is None:
            return []
        return read_rows(self._table.to_table(columns=list(ROW_COLUMNS), filter="error != ''", limit=most))

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        """Where the row of each picture stands in the table."""
        ids = [] if self._table is None else self._table.to_table(columns=["id"])["id"].to_pylist()
        return {number: place for place, number in enumerate(ids)}

    # --- embeddings ------------------------------------------------------------------------------

    def embeddings(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers ``(N,)`` int64 of the pictures that did not fail, ascending, and their vectors ``(N, D)`` float32."""
        if self._table is None:
            return np.zeros(0, np.int64), np.zeros((0, int(self.manifest["embedding"]["size"])), np.float32)
        found = self._table.to_table(columns=["id", "embedding"], filter="embedding IS NOT NULL").combine_chunks()
        ids = found["id"].to_numpy()
        vectors = matrix(found["embedding"], int(self.manifest["embedding"]["size"]))
        order = np.argsort(ids, kind="stable")
        return ids[order].astype(np.int64), vectors[order]

    def nearest(
        self, vector: NDArray[Any], k: int, metric: Metric = "euclidean"
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k pictures whose embeddings are nearest to a vector, nearest first.

        Exact where the store holds fewer than :data:`ANN_FROM` vectors. Beyond, candidates for the Euclidean distance
        come from the store's approximate index and are then compared exactly; :meth:`nearest_how` says what is asked.

        Args:
            vector: ``(D,)``.
            k: how many; fewer come back where the store holds fewer.
            metric: "euclidean", or "cosine" (1 - cosine of the angle).

        Returns:
            Numbers ``(k,)`` int64 and distances ``(k,)`` float64, ties by number.

        Raises:
            UsageError: another metric, or a vector of another size.
        """
        query = np.asarray(vector, np.float32).reshape(-1)
        size = int(self.manifest["embedding"]["size"])
        if metric not in ("euclidean", "cosine") or query.size != size or k < 1 or not np.isfinite(query).all():
            raise UsageError(
                f"nearest takes {size} finite numbers, k of at least 1, and the metric euclidean or cosine; got "
                f"{query.size} numbers, k = {k}, {metric!r}."
            )
        if self._table is None:
            return np.zeros(0, np.int64), np.zeros(0)
        large = bool(self.manifest["ann"])
        ids, vectors = candidates(self._table, query, k, metric) if large else self._vectors
        return exact_nearest(ids, vectors, query, k, metric)

    @functools.cached_property
    def _vectors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self.embeddings()

    def nearest_how(self, metric: Metric = "euclidean") -> str:
        """One sentence: whether :meth:`nearest` is exact for this metric, and if not, what it asks."""
        note = self.manifest["ann"].get(metric)
        return f"approximate: {note}" if note else "exact: compared with every embedding of the store"

    def fingerprint(self) -> str:
        """SHA-256 over everything the store answers with: equal for two stores that answer alike, bit for bit."""
        digest = hashlib.sha256(repr((self.layers, self.embedding_layer, self.pictures())).encode("utf-8", "replace"))
        tallies: list[Mapping[str, NDArray[Any]]] = [self._tally.state()]
        if self._concepts is not None:
            tallies.append(self._concepts.state())
        for name, array in (item for state in tallies for item in sorted(state.items())):
            plain = array.astype(np.int64) if array.dtype.kind in "iu" else array
            digest.update(f"{name}{plain.dtype}{plain.shape}".encode() + plain.tobytes())
        for array in self.embeddings():
            digest.update(array.tobytes())
        if self.manifest["options"]["keep_maps"]:
            for number in self.embeddings()[0]:
                for layer in self.layers:
                    maps = self.maps(layer, [number])
                    digest.update(b"" if maps is None else maps.tobytes())
        return digest.hexdigest()

    # --- units -----------------------------------------------------------------------------------

    @functools.cached_property
    def _tally(self) -> Tally:
        shards = [] if self._table is None else self._table.to_table(columns=["shard"])["shard"].unique().to_pylist()
        return TallyFolder(self.path / TALLIES, Tally.from_state).read(shards) or Tally()

    def _layer(self, layer: str) -> LayerTally:
        if layer not in self.layers:
            raise LayerError(
                f"the store holds no layer {layer!r}, only {', '.join(map(repr, self.layers))}."
                f"{did_you_mean(layer, self.layers)} Index with --layers {layer} to have it."
            )
        if layer not in self._tally.layers:
            raise OnnxvisError(f"{self.path} holds no picture yet: give its `onnxvis index` command again.")
        return self._tally.layers[layer]

    def top(self, layer: str) -> TopPlaces:
        """The K pictures that excite each unit of a layer most, with the strongest place of each.

        Raises:
            LayerError: the layer was not indexed.
        """
        return self._layer(layer).places()

    def quantile(self, layer: str, q: float) -> NDArray[np.float32]:
        """``(U,)`` the q-quantile of all activations of each unit over the data set.

        Within the relative error that the manifest states (``options.accuracy``); NaN for a unit without values.

        Raises:
            LayerError: the layer was not indexed.
            UsageError: q is not in 0..1.
        """
        return self._layer(layer).sketch.quantile(q)

    def not_numbers(self, layer: str) -> NDArray[np.int64]:
        """``(U,)`` how many activations of each unit were NaN: they are in no top list and no quantile."""
        return self._layer(layer).sketch.nan

    def maps(self, layer: str, ids: Iterable[int]) -> NDArray[np.float16] | None:
        """Activation maps ``(n, U, h, w)`` float16 of some pictures; ``None`` where they were not kept.

        Raises:
            LayerError: the layer was not indexed.
            UsageError: a picture is not in the store or failed, or their maps have different sizes.
        """
        if layer not in self.layers:
            self._layer(layer)
        if not self.manifest["options"]["keep_maps"] or self._table is None:
            return None
        wanted = [int(i) for i in ids]
        unknown = [i for i in wanted if i not in self._places]
        if unknown:
            raise UsageError(f"the store holds no picture number {unknown[0]}.")
        column = f"map{self.layers.index(layer)}"
        taken = self._table.take([self._places[i] for i in wanted], columns=[column, f"{column}_shape"])
        blobs, shapes = taken[column].to_pylist(), taken[f"{column}_shape"].to_pylist()
        failed = [number for number, blob in zip(wanted, blobs, strict=True) if blob is None]
        if failed:
            raise UsageError(f"picture {failed[0]} failed, so the store holds no map of it.")
        if len({tuple(shape) for shape in shapes}) > 1:
            raise UsageError("these pictures gave maps of different sizes; ask for them one by one.")
        arrays = [np.frombuffer(b, np.float16).reshape(s) for b, s in zip(blobs, shapes, strict=True)]
        return np.stack(arrays) if arrays else np.zeros((0, 0, 0, 0), np.float16)

    def iou(self, layer: str) -> ConceptCounts | None:
        """How far the units of a layer agree with marked concepts; ``None`` where it was indexed without masks.

        Raises:
            LayerError: the layer was not indexed.
        """
        if layer not in self.layers:
            self._layer(layer)
        masks, found = self.manifest["masks"], self._concepts
        if masks is None or found is None:
            return None
        counts, names = found.layers[layer], tuple(masks["names"])
        return ConceptCounts(
            names, masks["quantile"], counts["thresholds"], counts["both"][:, : len(names)], counts["masked"],
            counts["labeled"][: len(names)], found.pictures,
        )  # fmt: skip

    @functools.cached_property
    def _concepts(self) -> ConceptTally | None:
        return TallyFolder(self.path / CONCEPTS, ConceptTally.from_state).read() if self.manifest["masks"] else None
