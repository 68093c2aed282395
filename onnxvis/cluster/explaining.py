"""`onnxvis explain` on a cluster: chunks of pictures go out to the actors, which write the results where they belong.

The folder of the results must be the same on every machine: a map with its figures is megabytes, and drawing them is
most of the work, so neither goes through the driver. What comes back is what the page shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from onnxvis.cluster.pool import ClusterOptions, Pace, RayPool
from onnxvis.errors import OutputError, UsageError
from onnxvis.explain_chunk import ChunkItem, ChunkWork, Failed, Kept, explain_chunk, explained, prepared_chunk
from onnxvis.progress import silent

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["RayExplaining", "chunk_work"]

_LEADING: Final = 4  # chunks in which a picture that can be read is looked for
_PARTS: Final = (".attribution.npy.", ".overlay.png.", ".figure.png.", ".manifest.json.", ".sheet.png.")
_DIGEST: Final = 9  # characters of "-" and the fingerprint that tells pictures of one name apart


@dataclass(frozen=True, eq=False)
class _Common:
    """What every actor must know.

    Attributes:
        run: names this run.
        work: what is asked of the pictures.
        here: the folder that relative paths start from.
        mark: a file in the output folder, absolute: who does not see it would write somewhere else.
        leading: the first chunks of the listing.
    """

    run: str
    work: ChunkWork
    here: Path
    mark: Path
    leading: tuple[tuple[ChunkItem, ...], ...]


_tuned: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def chunk_work(
    model: Model, item: tuple[_Common, tuple[ChunkItem, ...]]
) -> tuple[list[Kept | Failed], dict[str, float]]:
    """One chunk, in an actor: explained, drawn and written.

    Raises:
        UsageError: the output folder of this machine is another one than the driver's.
    """
    common, chunk = item
    if not common.mark.is_file() or not common.here.is_dir():
        raise UsageError(
            f"an actor does not see {common.mark.parent} or {common.here} as this machine does: with --engine ray the "
            "output folder, and the folder in which the command is given, must be shared by all machines."
        )
    with contextlib.chdir(common.here):
        if _tuned.get(model) != common.run:
            _tune(model, common)
            _tuned[model] = common.run
        stages: dict[str, float] = {}
        results = list(explain_chunk(model, chunk, common.work, stages))
        for result in results:
            if isinstance(result, Kept):
                _tidy(common.work.out / result.folder)
        return results, stages


def _tune(model: Model, common: _Common) -> None:
    """Decide what one process decides on its first pictures, on those same pictures.

    How batches run, and the finite-difference check of each gradient, are found once in a process and stand in all
    its results. The methods that need no gradient decide nothing else, so they are left out.
    """
    requests = tuple(request for request in common.work.requests if request.method.needs_gradient)
    work = dataclasses.replace(common.work, requests=requests)
    for chunk in common.leading:
        prepared, _ = prepared_chunk(model, chunk)
        if len(prepared) > 1:
            model.engine.batch_plan(prepared[0][1].tensor)
        if not requests and prepared:
            return
        if requests and any(isinstance(found, list) for _, found in explained(model, prepared, work)):
            return


class RayExplaining:
    """Explains the chunks of a run in the actors of a pool.

    Args:
        options: where and with what.

    Attributes:
        pace: what was done, once something was.
    """

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self._options = options or ClusterOptions()
        self.pace = Pace()

    def chunks(
        self, model: Model, work: ChunkWork, chunks: Sequence[Sequence[ChunkItem]]
    ) -> Generator[list[Kept | Failed], None, None]:
        """What came of every chunk, each exactly once, in any order; its results are written by then.

        Raises:
            UsageError: the output folder is not shared by all machines.
            OnnxvisError: see :meth:`onnxvis.cluster.RayPool.run`.
        """
        run, folder = uuid.uuid4().hex, work.out.absolute()
        sent = dataclasses.replace(
            work,
            settings=dataclasses.replace(work.settings, progress=silent),
            out=folder,
            facts=model.describe(),
        )
        leading = tuple(map(tuple, chunks[:_LEADING]))
        common = _Common(run, sent, Path.cwd(), folder / f".onnxvis-{run}", leading)
        left = {item.position: item for chunk in chunks for item in chunk}
        _write_mark(common.mark)
        try:
            with RayPool(model, self._options) as pool:
                self.pace = pool.pace
                for results in pool.run(chunk_work, map(tuple, chunks), common):
                    for result in results:
                        del left[result.position]
                    yield results
        finally:
            common.mark.unlink(missing_ok=True)
            _tidy_unfinished(folder, left.values())


def _write_mark(mark: Path) -> None:
    try:
        mark.touch()
    except OSError as error:
        raise OutputError(f"cannot write to {mark.parent}: {error.strerror or error}.") from error


def _tidy(folder: Path) -> None:
    """Delete what an actor that died had begun to write: hidden files beside the ones that they would have become."""
    for path in folder.rglob(".*"):
        if path.name.startswith(_PARTS):
            path.unlink(missing_ok=True)


def _tidy_unfinished(out: Path, items: Iterable[ChunkItem]) -> None:
    names = {item.name for item in items}
    if names:
        for folder in out.iterdir():
            if folder.is_dir() and not {folder.name, folder.name[:-_DIGEST]}.isdisjoint(names):
                _tidy(folder)
