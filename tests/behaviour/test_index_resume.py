"""A pass that is cut off anywhere, gone on with, gives what an uninterrupted one gives, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.nets import SmallNet

import onnxvis
from onnxvis.behaviour.index import Store
from onnxvis.behaviour.index import folder as index_folder
from onnxvis.behaviour.index.concept_pass import count_shard
from onnxvis.behaviour.index.folder import StoreFolder, locked
from onnxvis.behaviour.index.run import IndexOptions, index
from onnxvis.behaviour.index.shard import IndexSpec, Partial, Shard, index_shard
from onnxvis.behaviour.index.tally_files import TallyFolder
from onnxvis.cli import main
from onnxvis.errors import OnnxvisError, OutputError, UsageError

pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")
OPTIONS = IndexOptions(layers=("auto", "logits"), top_k=4, batch_size=2, shard_size=2, keep_maps=True)
COUNT = 41


class Killed(BaseException):
    """As sudden as an exception can be."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    onnx.save(SmallNet(width=4).model(), root / "model.onnx")
    rng = np.random.default_rng(0)
    (root / "pictures").mkdir()
    (root / "masks").mkdir()
    (root / "masks" / "concepts.txt").write_text("a\nb\n")
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(root / "pictures" / f"{number}.png")
        if number % 3 == 0:
            Image.fromarray(rng.integers(0, 3, (32, 32), np.uint8)).save(root / "masks" / f"{number}.png")
    (root / "pictures" / "7.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def model(place: Path) -> onnxvis.Model:
    return onnxvis.load(place / "model.onnx", preprocessing="unit")


@pytest.fixture(scope="module")
def whole(place: Path, model: onnxvis.Model) -> Store:
    return index(model, [str(place / "pictures")], place / "whole", OPTIONS).store


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fold and compact many times within a few pictures."""
    monkeypatch.setattr(index_folder, "FOLD_EVERY", 3)
    monkeypatch.setattr(index_folder, "COMPACT_EVERY", 5)
    yield
    monkeypatch.undo()


def cut_off(honest: Callable[..., Any], call: int, after: bool) -> Callable[..., Any]:
    """The function, but its n-th call ends the run: before it did its work, or right after."""
    seen = 0

    def once(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call and not after:
            raise Killed
        result = honest(*args, **kwargs)
        if seen == call:
            raise Killed
        return result

    return once


PLACES = [
    (TallyFolder, "write"), (StoreFolder, "_append"), (TallyFolder, "_save"), (TallyFolder, "fold"),
    (StoreFolder, "compact"), (Path, "unlink"), (StoreFolder, "write_manifest"), (Path, "replace"),
]  # fmt: skip


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_at_every_step_of_a_commit(
    place: Path, model: onnxvis.Model, whole: Store, tmp_path: Path, owner: Any, name: str, after: bool
) -> None:
    images, rounds = [str(place / "pictures")], 0
    for call in (1, 2, 5):  # each round begins where the one before was cut off
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, cut_off(getattr(owner, name), call, after))
            try:
                index(model, images, tmp_path / "s", OPTIONS)
            except Killed:
                rounds += 1
    assert rounds >= 1
    store = index(model, images, tmp_path / "s", OPTIONS).store
    assert store.complete
    assert store.fingerprint() == whole.fingerprint()
    assert len(list((tmp_path / "s" / "tallies").iterdir())) == 1


class Merging:
    """An engine whose actors hand over the shards of a pass three at a time, the last ones first."""

    def partials(
        self, model: onnxvis.Model, spec: IndexSpec, shards: Sequence[Shard]
    ) -> Generator[Partial, None, None]:
        for start in reversed(range(0, len(shards), 3)):
            whole = Partial()
            for shard in shards[start : start + 3]:
                whole.merge(index_shard(model, spec, shard))
            yield whole


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
def test_merged_shards_are_cut_off_at_every_step(
    place: Path, model: onnxvis.Model, whole: Store, tmp_path: Path, owner: Any, name: str
) -> None:
    images = [str(place / "pictures")]
    for call, after in ((1, False), (2, True), (3, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, cut_off(getattr(owner, name), call, after))
            with contextlib.suppress(Killed):
                index(model, images, tmp_path / "s", OPTIONS, engine=Merging())
        rest = Merging() if after else None  # the other engine goes on with what is there
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StoreFolder, "_append", cut_off(StoreFolder._append, 2, True))
            with contextlib.suppress(Killed):
                index(model, images, tmp_path / "s", OPTIONS, engine=rest)
    store = index(model, images, tmp_path / "s", OPTIONS).store
    assert store.fingerprint() == whole.fingerprint()


@pytest.mark.usefixtures("often")
def test_a_store_that_is_not_complete_answers_for_what_it_has(
    place: Path, model: onnxvis.Model, whole: Store, tmp_path: Path
) -> None:
    images = [str(place / "pictures")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreFolder, "_append", cut_off(StoreFolder._append, 9, True))
        with pytest.raises(Killed):
            index(model, images, tmp_path / "s", OPTIONS)
    part = Store.open(tmp_path / "s")
    assert not part.complete
    assert [row.id for row in part.pictures()] == list(range(18))
    assert part.pictures() == whole.pictures()[:18]
    numbers = part.top("features").picture
    assert numbers.min() >= 0
    assert numbers.max() < 18
    assert index(model, images, tmp_path / "s", OPTIONS).run == COUNT - 18


def test_concept_counts_go_on_too(place: Path, model: onnxvis.Model, tmp_path: Path) -> None:
    images, options = [str(place / "pictures")], IndexOptions(shard_size=4, masks=str(place / "masks"), top=0.1)
    expected = index(model, images, tmp_path / "whole", options).store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxvis.behaviour.index.run.count_shard", cut_off(count_shard, 4, True))
        with pytest.raises(Killed):
            index(model, images, tmp_path / "s", options)
    store = index(model, images, tmp_path / "s", options).store
    assert store.fingerprint() == expected.fingerprint()
    counts = store.iou("features")
    assert counts is not None
    assert counts.pictures == 14
    later = index(model, images, tmp_path / "later", IndexOptions(shard_size=4)).store
    assert later.iou("features") is None
    later = index(model, images, tmp_path / "later", options).store  # only the second pass is run
    assert later.fingerprint() == expected.fingerprint()


def test_one_process_writes_at_a_time(place: Path, model: onnxvis.Model, tmp_path: Path) -> None:
    with locked(tmp_path / "s"), pytest.raises(UsageError, match="another process is writing"):
        index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS)
    with locked(tmp_path / "s"):
        pass


def test_a_full_disk_keeps_what_is_finished(
    place: Path, model: onnxvis.Model, whole: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lance, calls = index_folder.lance_module(), 0

    class Full:
        def write_dataset(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 4:
                raise OSError("LanceError(IO): No space left on device (os error 28)")
            return lance.write_dataset(*args, **kwargs)

    monkeypatch.setattr(index_folder, "lance_module", Full)
    with pytest.raises(OutputError, match=r"No space left on device.*same command again"):
        index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS)
    monkeypatch.undo()
    assert len(Store.open(tmp_path / "s").pictures()) == 8
    done = index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS)
    assert done.run == COUNT - 8
    assert done.store.fingerprint() == whole.fingerprint()


def test_ctrl_c_says_how_to_go_on(
    place: Path, whole: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(place / "model.onnx"), str(place / "pictures"), "--preprocessing", "unit"]
    command += ["--layers", "auto,logits", "--top-k", "4", "--batch-size", "2", "--shard-size", "2", "--keep-maps"]
    command += ["-o", str(tmp_path / "s")]

    def pressed(*args: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreFolder, "_append", pressed)
        assert main(command) == 130
    assert "give the same command again" in capsys.readouterr().err
    assert main(command) == 0
    assert Store.open(tmp_path / "s").fingerprint() == whole.fingerprint()


def test_a_damaged_store_is_named(place: Path, model: onnxvis.Model, tmp_path: Path) -> None:
    store = index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS).store
    (path,) = (tmp_path / "s" / "tallies").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OnnxvisError, match="damaged"):
        Store.open(store.path).top("features")
    path.unlink()
    with pytest.raises(OnnxvisError, match="does not belong to the rows"):
        Store.open(store.path).top("features")
    (tmp_path / "s" / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="not the manifest of a store"):
        index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal of POSIX systems")
def test_kill_9_at_random_moments(place: Path, whole: Store, tmp_path: Path) -> None:
    out = tmp_path / "s"
    program = (
        "import sys; from onnxvis.behaviour.index import folder; folder.FOLD_EVERY = 3; folder.COMPACT_EVERY = 5; "
        "from onnxvis.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "index", str(place / "model.onnx"), str(place / "pictures")]
    command += ["--preprocessing", "unit", "--layers", "auto,logits", "--top-k", "4", "--batch-size", "2"]
    command += ["--shard-size", "2", "--keep-maps", "-o", str(out)]
    chance, killed = random.Random(1), 0
    for _ in range(3):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        grown = len(committed(out))
        while running.poll() is None and len(committed(out)) <= grown:  # it is at work now
            time.sleep(0.01)
        time.sleep(chance.random() * 0.15)
        if running.poll() is None:
            os.kill(running.pid, signal.SIGKILL)
            killed += 1
        running.wait()
    assert killed >= 1
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    store = Store.open(out)
    assert json.loads((out / "manifest.json").read_text())["complete"]
    assert store.fingerprint() == whole.fingerprint()


def committed(out: Path) -> set[str]:
    """Names of everything Lance has committed so far."""
    folder = out / "pictures.lance" / "_versions"
    return {path.name for path in folder.glob("*.manifest")} if folder.is_dir() else set()
