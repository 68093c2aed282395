"""The parts of ``benchmarks/occlusion.py``: exactness, speed, memory."""
