"""The time of an overlay on a 4K picture, against OpenCV's resize + applyColorMap + addWeighted.

Run ``python benchmarks/overlay.py [--repeats N] [--cpu]``. Both sides start from the same small float32 map and the
same uint8 picture, alternate call by call, and are compared by their medians. OpenCV gets its fastest known
form (saturating conversion in C++, results written into ready arrays); it blends with one alpha for the whole
picture, onnxvis with the alpha of each value. ``--cpu`` gives each side one thread and counts processor time, for a
machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from onnxvis.kernels.blend import blend_map, blend_overlay
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.render.colormap import DIVERGING

HEIGHT, WIDTH = 2160, 3840


def clock(call: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    call()
    return (now() - start) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--cpu", action="store_true", help="processor time, one thread each")
    given = parser.parse_args()
    repeats, now = given.repeats, time.process_time if given.cpu else time.perf_counter
    if given.cpu:
        os.environ["OMP_NUM_THREADS"] = "1"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    try:
        import cv2

        if given.cpu:
            cv2.setNumThreads(1)
    except ImportError:
        cv2 = None
    counted = "processor time of one thread, " if given.cpu else ""
    print(f"{WIDTH} x {HEIGHT} picture, {counted}medians of {repeats} interleaved calls")
    for side in (7, 14, 56, 224):
        small = rng.standard_normal((side, side)).astype(np.float32)
        limit = float(np.abs(small).max())
        colored = np.empty_like(picture)
        blended = np.empty_like(picture)

        def ours(small: np.ndarray = small, limit: float = limit) -> None:
            blend_map(picture, small, DIVERGING.lut, (-limit, limit))

        def steps(small: np.ndarray = small, limit: float = limit) -> None:
            values = upsample_bilinear(small, (HEIGHT, WIDTH))
            blend_overlay(picture, values, DIVERGING.lut, (-limit, limit))

        def theirs(
            small: np.ndarray = small,
            limit: float = limit,
            colored: np.ndarray = colored,
            blended: np.ndarray = blended,
        ) -> None:
            large = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
            level = cv2.convertScaleAbs(large + limit, alpha=127.5 / limit)
            cv2.applyColorMap(level, cv2.COLORMAP_JET, dst=colored)
            cv2.addWeighted(picture, 0.5, colored, 0.5, 0.0, dst=blended)

        first = clock(ours, now)
        steps()
        calls = [ours, steps] if cv2 is None else [ours, steps, theirs]
        for call in calls:
            call()
        times = np.median([[clock(call, now) for call in calls] for _ in range(repeats)], axis=0)
        line = f"map {side:3d} px: onnxvis {times[0]:5.1f} ms (two steps {times[1]:5.1f}, first {first:.0f})"
        if cv2 is not None:
            line += f", OpenCV {times[2]:5.1f} ms, OpenCV / onnxvis = {times[2] / times[0]:.2f}"
        print(line)
    if cv2 is None:
        print("OpenCV is missing, only onnxvis was timed. For the ratio: pip install opencv-python-headless")
    return 0


if __name__ == "__main__":
    sys.exit(main())
