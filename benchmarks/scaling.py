"""What `--engine ray` promises: the answers of the local engine, whoever dies, at a known price.

Run ``python benchmarks/scaling.py [equal] [kills] [memory] [costs] [all]`` (all by default). It writes its tables into
docs/scaling.md.

equal   20,000 pictures (Fashion-MNIST as PNG files, through a small CNN that is trained here) by the local engine with
        1, 2 and 4 threads and by Ray with 1, 2 and 4 actors of one thread: the stores must be equal, bit for bit.
        Rounds alternate; medians.
kills   4,000 of them and a broken one in shards of 32: actors killed with SIGKILL at random moments, then drivers; what
        the store answers must equal an undisturbed local run, bit for bit.
memory  peak resident memory of driver, actors and Ray's own processes at 10,000 to 100,000 pictures (hard links).
costs   what a shard of a network of usual size sends to the driver, and how fast the driver commits shards, one by one
        or several that an actor brought together.

Every run is a process of its own; what it started is ended with it. Linux, since /proc is read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
PAGE = HERE.parent / "docs" / "scaling.md"

COUNT = 20_000
SIZES = (10_000, 20_000, 50_000, 100_000)
WORKERS = (1, 2, 4)
ACTOR_KILLS, DRIVER_KILLS = 12, 6
ACTOR = "ray::_Actor"
RAYS_OWN = ("raylet", "gcs_server", "ray::", "dashboard", "log_monitor", "runtime_env", "monitor.py")


# --- processes -----------------------------------------------------------------------------------


def family(root: int) -> dict[int, str]:
    """The descendants of a process with their command lines."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
    found: dict[int, str] = {}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        for process in [p for p, own in parents.items() if own == parent and p not in found]:
            found[process] = names[process]
            waiting.append(process)
    return found


def kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def memory_of(process: int, field: str) -> int:
    """A field of /proc/PID/status in kB; 0 once the process is gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(field)), 0)


class Watch:
    """Looks at the memory of this process's descendants until it is closed."""

    def __init__(self) -> None:
        self.actors: dict[int, int] = {}
        self.ray = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(1.0):
            own = 0
            for process, name in family(os.getpid()).items():
                if name.startswith(ACTOR):
                    self.actors[process] = max(self.actors.get(process, 0), memory_of(process, "VmHWM"))
                elif any(word in name for word in RAYS_OWN):
                    own += memory_of(process, "VmRSS")
            self.ray = max(self.ray, own)


# --- one run -------------------------------------------------------------------------------------


def child(text: str) -> int:
    """One pass, in a process of its own; prints what it took as JSON."""
    import onnxvis
    from onnxvis.behaviour.index.run import IndexOptions, index

    given = json.loads(text)
    options = IndexOptions(layers=("auto", "relu:1", "conv:0", "relu:0"), **given.get("options", {}))
    model = onnxvis.load(given["model"], preprocessing="unit", provider="cpu")
    engine: Any = None
    if given["actors"]:
        from onnxvis.cluster import ClusterOptions
        from onnxvis.cluster.indexing import RayIndexing

        engine = RayIndexing(ClusterOptions(actors=given["actors"]))
    with Watch() as watch:
        began = time.perf_counter()
        done = index(model, [given["pictures"]], given["out"], options, engine=engine)
        seconds = time.perf_counter() - began
    pace = engine.pace if engine is not None else None
    peaks = list(watch.actors.values())
    answer = {
        "seconds": seconds,
        "run": done.run,
        "bytes": done.stored_bytes,
        "fingerprint": done.store.fingerprint() if given.get("fingerprint", True) else "",
        "working": seconds - (pace.starting if pace else 0),
        "busy": sum(pace.busy.values()) if pace else seconds,
        "stages": pace.stages if pace else {},
        "driver": memory_of(os.getpid(), "VmHWM") / 1024,
        "actor": max(peaks, default=0) / 1024,
        "ray": watch.ray / 1024,
    }
    print("answer", json.dumps(answer))
    return 0


def start(scratch: Path, threads: int, **given: Any) -> subprocess.Popen[str]:
    words = {name: str(threads) for name in ("ONNXVIS_THREADS", "OMP_NUM_THREADS")}
    (scratch / "ray").mkdir(exist_ok=True)
    environment = {**os.environ, **words, "RAY_TMPDIR": str(scratch / "ray"), "RAY_DEDUP_LOGS": "0"}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(given)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def answer_of(running: subprocess.Popen[str]) -> dict[str, Any]:
    started: dict[int, str] = {}
    while running.poll() is None:
        started |= family(running.pid)
        time.sleep(0.5)
    assert running.stdout is not None
    text = running.stdout.read()
    end(started)
    if running.returncode or "answer " not in text:
        raise SystemExit(f"a run failed with {running.returncode}: {text[-500:]}")
    found: dict[str, Any] = json.loads(text.rsplit("answer ", 1)[1])
    return found


def end(started: dict[int, str]) -> None:
    """End what a run left behind: processes that it started, if they still have the name they had."""
    time.sleep(0.5)
    for process, name in started.items():
        try:
            now = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if now and now == name:
            kill(process)


# --- the page ------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---", *["--:"] * (len(heads) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (heads, marks, *rows)]


def write(part: str, lines: Sequence[str]) -> None:
    """Print, and put between the marks of this part in the page."""
    print("\n".join(lines), flush=True)
    text = PAGE.read_text(encoding="utf-8")
    first, last = f"<!-- {part} -->", f"<!-- end of {part} -->"
    before, _, rest = text.partition(first)
    if last not in rest:
        raise SystemExit(f"{PAGE} has no place for the part {part!r}: {first} ... {last}")
    after = rest.partition(last)[2]
    PAGE.write_text("\n".join([before + first, "", *lines, "", last]) + after, encoding="utf-8")


def machine() -> str:
    cpus = len(os.sched_getaffinity(0))
    return f"{cpus} CPUs, {platform.system()}, load average {os.getloadavg()[0]:.1f} when this part began"


# --- parts ---------------------------------------------------------------------------------------


def equal(scratch: Path, model: Path, pictures: Path, rounds: int) -> bool:
    where = machine()
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for count in WORKERS:
            for engine in ("local", "ray"):
                out = scratch / f"equal-{engine}-{count}-{turn}"
                actors = count if engine == "ray" else 0
                run = start(
                    scratch, count if engine == "local" else 1, model=str(model), pictures=str(pictures), out=str(out),
                    actors=actors,
                )  # fmt: skip
                found.setdefault((engine, count), []).append(answer_of(run))
    prints = {run["fingerprint"] for runs in found.values() for run in runs}
    rows = []
    for (engine, count), runs in sorted(found.items(), key=lambda entry: (entry[0][1], entry[0][0])):
        seconds, working, busy = (statistics.median(r[n] for r in runs) for n in ("seconds", "working", "busy"))
        base = statistics.median(r["seconds"] for r in found["local", count])
        each = f"{COUNT / busy:.0f}" if engine == "ray" else ""
        price, rest = (f"{part / base - 1:+.0%}" if engine == "ray" else "" for part in (seconds, working))
        starting = f"{seconds - working:.1f}" if engine == "ray" else ""
        rows.append([f"{engine}, {count}", f"{seconds:.1f}", starting, f"{COUNT / working:.0f}", each, price, rest])
    reading = [r["stages"].get("reading", 0) / max(sum(r["stages"].values()), 1e-9) for r in found["ray", 1]]
    fine = len(prints) == 1
    heads = [
        "engine, threads or actors", "seconds", "of which Ray's start", "pictures/s",
        "pictures/s per actor while it worked", "time against local", "start apart",
    ]  # fmt: skip
    how = f"medians of {rounds} alternating rounds" if rounds > 1 else "one round"
    write("equal", [
        f"{COUNT:,} pictures, {how}; {where}. The stores of the "
        f"{sum(map(len, found.values()))} runs are {'equal, bit for bit' if fine else '**DIFFERENT**'}. One actor "
        f"waited {statistics.median(reading):.0%} of its time for pictures to be read.",
        "", *table(heads, rows),
    ])  # fmt: skip
    return fine


def kills(scratch: Path, model: Path, images: Any, labels: Any) -> bool:
    from index import write_pngs

    where, pictures = machine(), scratch / "kills"
    write_pngs(images[:4000], labels[:4000], pictures)
    (pictures / "broken.png").write_bytes(b"no picture")
    given = {
        "model": str(model),
        "pictures": str(pictures),
        "options": {"shard_size": 32, "keep_maps": True},
    }
    whole = answer_of(start(scratch, 1, **given, out=str(scratch / "whole"), actors=0))["fingerprint"]
    chance = random.Random(0)
    rows = [
        _kill_actors(scratch, given, whole, chance),
        _kill_drivers(scratch, given, whole, chance),
    ]
    fine = all(row[-1] == "equal, bit for bit" for row in rows)
    write("kills", [
        f"4,001 pictures in shards of 32, two actors; {where}.",
        "", *table(["killed with SIGKILL, at random moments", "kills", "stores", "against a local run"], rows),
    ])  # fmt: skip
    return fine


def _kill_actors(scratch: Path, given: dict[str, Any], whole: str, chance: random.Random) -> list[str]:
    killed, stores, same = 0, 0, True
    while killed < ACTOR_KILLS and stores < ACTOR_KILLS:
        out = scratch / f"actors-{stores}"
        run = start(scratch, 1, **given, out=str(out), actors=2)
        stores += 1
        box: list[dict[str, Any]] = []
        waiter = threading.Thread(target=lambda run=run, box=box: box.append(answer_of(run)))  # type: ignore[misc]
        waiter.start()
        own = 0
        while run.poll() is None and killed + own < ACTOR_KILLS:
            begun = _tallies(out)
            while run.poll() is None and _tallies(out) == begun:  # a piece of work that kills six actors ends the run
                time.sleep(0.05)
            time.sleep(chance.random() * 2)
            actors = [process for process, name in family(run.pid).items() if name.startswith(f"{ACTOR}.run")]
            if actors:
                own += kill(chance.choice(actors))
        killed += own
        waiter.join()
        same = same and bool(box) and box[0]["fingerprint"] == whole
        print(f"  store {stores}: {own} actors killed, {'equal' if same else 'failed or different'}", flush=True)
    return ["actors", str(killed), str(stores), "equal, bit for bit" if same else "**DIFFERENT**"]


def _kill_drivers(scratch: Path, given: dict[str, Any], whole: str, chance: random.Random) -> list[str]:
    killed, stores, same = 0, 0, True
    while killed < DRIVER_KILLS:
        out = scratch / f"drivers-{stores}"
        stores += 1
        while True:
            run = start(scratch, 1, **given, out=str(out), actors=2)
            started: dict[int, str] = {}
            begun = _tallies(out)
            while run.poll() is None and _tallies(out) == begun:
                started |= family(run.pid)
                time.sleep(0.05)
            time.sleep(chance.random() * 2)
            started |= family(run.pid)
            if run.poll() is not None or killed >= DRIVER_KILLS:
                same = same and answer_of(run)["fingerprint"] == whole
                break
            killed += kill(run.pid)
            run.wait()
            end(started)
    return ["drivers", str(killed), str(stores), "equal, bit for bit" if same else "**DIFFERENT**"]


def _tallies(out: Path) -> int:
    """Something that changes as soon as a shard is committed."""
    return max((p.stat().st_mtime_ns for p in (out / "tallies").glob("*.tally")), default=0)


def memory(scratch: Path, model: Path, pictures: Path, sizes: Sequence[int]) -> bool:
    where = machine()
    files = sorted(pictures.rglob("*.png"))
    rows, drivers, workers = [], [], []
    for size in sizes:
        folder = scratch / f"links-{size}"
        for number in range(size):
            place = folder / files[number % len(files)].parent.name
            place.mkdir(parents=True, exist_ok=True)
            os.link(files[number % len(files)], place / f"{number:06d}.png")
        out = scratch / f"memory-{size}"
        run = start(scratch, 1, model=str(model), pictures=str(folder), out=str(out), actors=2, fingerprint=False)
        took = answer_of(run)
        drivers.append(took["driver"])
        workers.append(took["actor"])
        rows.append([
            f"{size:,}", f"{took['driver']:.0f}", f"{took['actor']:.0f}", f"{took['ray']:.0f}",
            f"{took['seconds']:.0f}", f"{size / took['working']:.0f}", f"{took['bytes'] / 1e6:.1f}",
        ])  # fmt: skip
        print("  ".join(rows[-1]), flush=True)
    heads = [
        "pictures", "driver, MB", "largest actor, MB", "Ray's own processes, MB", "seconds", "pictures/s", "store, MB",
    ]  # fmt: skip
    grown = 1e6 * (drivers[-1] - drivers[0]) / (sizes[-1] - sizes[0])
    write("memory", [
        f"Peak resident memory, two actors, shards of 256; {where}. From {sizes[0]:,} to {sizes[-1]:,} pictures the "
        f"driver grew by {grown:.0f} bytes a picture, the largest actor by {workers[-1] - workers[0]:+.0f} MB.",
        "", *table(heads, rows),
    ])  # fmt: skip
    return workers[-1] < 1.15 * workers[0]


def costs(scratch: Path) -> bool:
    """What a shard sends to the driver and costs there: a layer of 1,280 units, 7 x 7 places, embeddings of 1,280."""
    import pickle

    import numpy as np

    from onnxvis.behaviour.index.folder import StoreFolder, stored_bytes
    from onnxvis.behaviour.index.layers import Tap
    from onnxvis.behaviour.index.rows import Answer, PictureRow
    from onnxvis.behaviour.index.shard import IndexSpec, Partial
    from onnxvis.behaviour.index.tally import LayerTally, Tally

    where, units, rows = machine(), 1280, []
    taps = Tap("layer", "", units, 1, (2, 3), 49), Tap("embedding", "", units, 1, None, 1)
    spec = IndexSpec((taps[0],), taps[1])
    rng = np.random.default_rng(0)
    top = tuple((i, f"class {i}", 0.2) for i in range(5))
    for size, together, commits in ((256, 1, 32), (256, 16, 8), (1024, 1, 16), (1024, 4, 8), (4096, 1, 8)):
        counted = LayerTally(units, spec.top_k, spec.accuracy, compiled=True)
        for start_at in range(0, size, 64):
            maps = rng.standard_normal((64, units, 7, 7), np.float32) - 1
            counted.add(np.maximum(maps, 0), np.arange(start_at, start_at + 64))
        counted.count()
        embedding = rng.random((size, units), np.float32)
        out = scratch / f"costs-{size}-{together}"
        folder = StoreFolder(out, spec, size)
        seconds, sent, pictures = [], 0, size * together
        for commit in range(commits):
            merged = Partial()
            for shard in range(commit * together, (commit + 1) * together):
                answers = [
                    Answer(PictureRow(n, f"/data/pictures/{n:09d}.jpg", f"{n:064x}", 500, 375, "", "a", top), vector)
                    for n, vector in zip(range(shard * size, (shard + 1) * size), embedding, strict=True)
                ]
                merged.merge(Partial(answers, Tally(frozenset([shard]), {"layer": counted})))
            partial = pickle.dumps(merged)
            sent = len(partial)
            began = time.perf_counter()
            folder.commit(pickle.loads(partial))
            seconds.append(time.perf_counter() - began)
        mean = sum(seconds) / len(seconds)
        stored = stored_bytes(out) / (commits * pictures)
        rows.append([
            f"{size:,}", f"{together}", f"{sent / 1e6:.1f}", f"{sent / pictures / 1e3:.1f}",
            f"{1e3 * statistics.median(seconds):.0f}", f"{1e3 * mean:.0f}", f"{pictures / mean:,.0f}",
            f"{stored / 1e3:.1f}",
        ])  # fmt: skip
        shutil.rmtree(out)
    heads = [
        "pictures in a shard", "shards brought together", "sent to the driver, MB", "kB a picture",
        "commit, ms, median", "mean, with folding and compaction", "pictures/s that the driver can commit",
        "store, kB a picture",
    ]  # fmt: skip
    write("costs", [
        "One layer of 1,280 units with 7 x 7 places, embeddings of 1,280 numbers, k = 32, accuracy 1 %; random numbers "
        f"behind a ReLU; {where}.",
        "", *table(heads, rows),
    ])  # fmt: skip
    return True


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2])
    from index import fashion, trained, write_pngs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["all"])
    parser.add_argument("--rounds", type=int, default=3, help="of the part equal")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="pictures, of the part memory")
    given = parser.parse_args()
    parts = {"equal", "kills", "memory", "costs"} if "all" in given.parts else set(given.parts)
    fine = True
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "costs" in parts:
            costs(scratch)
        data = fashion(scratch) if parts - {"costs"} else None
        if data is None:
            return 0 if parts == {"costs"} else 1
        model, pictures = scratch / "small.onnx", scratch / "pictures"
        trained(*data, model)
        if parts & {"equal", "memory"}:
            write_pngs(data[0][:COUNT], data[1][:COUNT], pictures)
        if "equal" in parts:
            fine &= equal(scratch, model, pictures, given.rounds)
        if "kills" in parts:
            fine &= kills(scratch, model, *data)
        if "memory" in parts:
            fine &= memory(scratch, model, pictures, [int(size) for size in given.sizes.split(",")])
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
