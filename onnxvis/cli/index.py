"""`onnxvis index`: the pass, its progress bar, and what it says at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from onnxvis.behaviour.index.memory import map_large_arrays
from onnxvis.behaviour.index.run import IndexOptions, Summary, index
from onnxvis.cli.cluster import Cluster, say_pace
from onnxvis.cli.console import err, out, progress_bar, visible
from onnxvis.locations import redacted
from onnxvis.model import Model

if TYPE_CHECKING:
    from onnxvis.cluster.indexing import RayIndexing

__all__ = ["IndexOptions", "redacted_command", "run_index"]

_SHOWN = 5


def run_index(
    model: Model, images: Sequence[str], store: str, options: IndexOptions, cluster: Cluster, quiet: bool
) -> int:
    """Index and say what came of it; 0, or 130 when interrupted. Pictures that failed are no failure of the pass."""
    engine = _engine(cluster)
    map_large_arrays()
    try:
        with progress_bar(quiet) as progress:
            command = redacted_command(sys.argv)
            done = index(model, images, store, options, command=command, progress=progress, engine=engine)
    except KeyboardInterrupt:
        err.print("\n[yellow]interrupted[/]: finished shards are kept; give the same command again to go on")
        return 130
    _say_failures(done)
    _say_what(done)
    if engine is not None and done.run:
        say_pace(engine.pace, done.run)
    return 0


def _engine(cluster: Cluster) -> RayIndexing | None:
    options = cluster.options()
    if options is None:
        return None
    from onnxvis.cluster.indexing import RayIndexing

    return RayIndexing(options)


def redacted_command(arguments: Sequence[str]) -> str:
    """The command line without the credentials that its URLs may carry."""
    return shlex.join(redacted(argument) for argument in arguments)


def _say_failures(done: Summary) -> None:
    if not done.failed:
        return
    err.print(f"[yellow]{done.failed} of {done.pictures} pictures were left out:[/]")
    for row in done.store.failures(_SHOWN):
        err.print(f"  {escape(visible(row.path))}: {escape(visible(row.error))}")
    if done.failed > _SHOWN:
        err.print(f"  and {done.failed - _SHOWN} more; every row of the store has its error")


def _say_what(done: Summary) -> None:
    store = done.store
    for layer in store.manifest["layers"]:
        _say("layer", f"{layer['tensor']}, {layer['units']} units: {layer['reason']}")
        nan = int(store.not_numbers(layer["tensor"]).sum()) if done.pictures > done.failed else 0
        if nan:
            _say("", f"{nan:,} of its activations are NaN: in no list of the strongest and in no quantile")
    embedding = store.manifest["embedding"]
    _say("embedding", f"{embedding['tensor']}, {embedding['size']} numbers: {embedding['reason']}")
    _say("", store.nearest_how())
    masks = store.manifest["masks"]
    if masks:
        _say(
            "concepts", f"{len(masks['names'])}, in {masks['pictures']} label maps; {masks['errors']} could not be used"
        )
    speed = f", {done.run / done.seconds:.1f} pictures/s" if done.run and done.seconds > 0 else ""
    earlier = f" ({done.pictures - done.run} of them by earlier runs)" if 0 < done.run < done.pictures else ""
    new = "" if done.run else "; nothing was left to do"
    _say("store", f"{store.shown}, {done.stored_bytes / 1e6:.1f} MB")
    _say("pictures", f"{done.pictures}{earlier}, {done.failed} failed{speed}{new}")


def _say(name: str, text: str) -> None:
    out.print(f"[bold]{name:<10}[/] {escape(visible(text))}")
