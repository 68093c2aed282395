"""Audits, comparisons and stores in object storage whose processes are ended at random moments: what they end with.

Run ``python benchmarks/scaling_reports.py``. It writes its table into docs/scaling.md.

An audit of 200 and a comparison of 400 pictures (Fashion-MNIST, through a small CNN that is trained here) on Ray with
two actors, and an index of 400 pictures into a bucket (moto's server on loopback), now from one machine and now from
another (two folders of copies), with either engine. Each is started again and again; SIGINT or SIGKILL to the whole
group of its processes ends it a moment after it has kept something new. What is there in the end must equal an
undisturbed local run: every file, apart from times, and of a store everything that it answers with.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

KILLS = {"audit": 6, "compare": 6, "index into a bucket": 8}
RAY = ["--engine", "ray", "--actors", "2"]


def run(words: list[str], place: Path, **more: str) -> subprocess.Popen[bytes]:
    """A command in a group of processes of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-m", "onnxvis", *words, "--quiet"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=place, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def disturbed(
    start: Callable[[], subprocess.Popen[bytes]],
    kept: Callable[[], Any],
    kills: int,
    chance: random.Random,
    kill_first: bool = False,
) -> tuple[int, int]:
    """Start until nothing is left to do; how often it was interrupted and killed, which take turns."""
    done = {signal.SIGINT: 0, signal.SIGKILL: 0}
    while True:
        running, before = start(), kept()
        if sum(done.values()) < kills:
            while running.poll() is None and kept() == before:
                time.sleep(0.02)
            time.sleep(chance.random())
            if running.poll() is None:
                turn = done[signal.SIGINT] + kill_first > done[signal.SIGKILL]
                how = signal.SIGKILL if turn else signal.SIGINT
                os.killpg(running.pid, how)
                done[how] += 1
                running.wait()
                continue
        running.wait()
        return done[signal.SIGINT], done[signal.SIGKILL]


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a report but the page; JSON without times and the command, lines in one order."""
    from onnxvis.audit.report_data import without_times

    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "index.html"):
        data: Any = path.read_bytes()
        if path.suffix == ".json":
            data = without_times(json.loads(data))
            data.pop("command", None)
        elif path.suffix == ".jsonl":
            data = sorted(line for line in data.splitlines() if line)
        found[str(path.relative_to(folder))] = data
    return found


def reports(scratch: Path, chance: random.Random) -> list[list[str]]:
    shared = ["--preprocessing", "unit", "--gradients", "onnx", "-m", "grad-cam,occlusion"]
    audit = ["audit", "small.onnx", "pictures", *shared, "-O", "window=7", "--metrics", "deletion"]
    compare = ["compare", "small.onnx", "other.onnx", "pictures", *shared]
    rows = []
    for name, words, pattern in (
        ("audit", audit, "maps/*/entry.json"),
        ("compare", compare, "compare.partial.jsonl"),
    ):
        run([*words, "--out", f"{name}-local"], scratch).wait()
        out = scratch / f"{name}-ray"
        interrupted, killed = disturbed(
            lambda w=words, o=out: run([*w, "--out", str(o), *RAY], scratch),  # type: ignore[misc]
            lambda o=out, p=pattern: sum(f.stat().st_size for f in o.glob(p)),  # type: ignore[misc]
            KILLS[name],
            chance,
        )
        same = contents(out) == contents(scratch / f"{name}-local") and len(contents(out)) > 0
        rows.append([name, str(interrupted), str(killed), "equal, byte for byte" if same else "**DIFFERENT**"])
        print(rows[-1], flush=True)
    return rows


def bucket(scratch: Path, chance: random.Random) -> list[str]:
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    from onnxvis.behaviour.index import Store

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ.update({
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    })  # fmt: skip
    client = boto3.client("s3")
    client.create_bucket(Bucket="stores")
    words = ["index", "small.onnx", "pictures", "--preprocessing", "unit", "--shard-size", "4", "--keep-maps", "--out"]
    run([*words, "store-local"], scratch).wait()
    name, counts, same = "index into a bucket", [0, 0], True
    local = Store.open(str(scratch / "store-local")).fingerprint()
    for number in range(KILLS[name]):
        folder = f"store-{number}"

        def start(url: str = f"s3://stores/{folder}") -> subprocess.Popen[bytes]:
            engine = RAY if chance.random() < 0.4 else []
            return run([*words, url, *engine], scratch, ONNXVIS_CACHE=str(scratch / chance.choice(("one", "other"))))

        def published(key: str = f"{folder}/store.json") -> list[str]:
            found = client.list_objects_v2(Bucket="stores", Prefix=key).get("Contents", [])
            return [one["ETag"] for one in found]

        ended = disturbed(start, published, KILLS[name] - sum(counts), chance, counts[0] > counts[1])
        counts = [known + new for known, new in zip(counts, ended, strict=True)]
        os.environ["ONNXVIS_CACHE"] = str(scratch / "third")
        store = Store.open(f"s3://stores/{folder}")
        same = same and store.complete and store.fingerprint() == local
        if sum(counts) >= KILLS[name]:
            break
    server.stop()
    return [name, *map(str, counts), "equal, bit for bit" if same else "**DIFFERENT**"]


def main() -> int:
    import onnx
    from index import fashion, trained, write_pngs
    from onnx import numpy_helper
    from scaling import machine, table, write

    where, chance = machine(), random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = fashion(scratch)
        if data is None:
            return 1
        images, labels = data
        trained(images, labels, scratch / "small.onnx")
        model = onnx.load(scratch / "small.onnx")
        first = model.graph.initializer[0]
        first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * 1.01, first.name))
        onnx.save(model, scratch / "other.onnx")
        write_pngs(images[:400], labels[:400], scratch / "pictures")
        (scratch / "pictures" / "broken.png").write_bytes(b"no picture")
        rows = [*reports(scratch, chance), bucket(scratch, chance)]
    write("reports", [
        f"400 pictures and a broken one, two actors; {where}.",
        "", *table(["driver, ended at random moments", "by SIGINT", "by SIGKILL", "against a local run"], rows),
    ])  # fmt: skip
    return 0 if all("equal" in row[-1] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
