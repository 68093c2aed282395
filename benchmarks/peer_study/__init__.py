"""The parts of ``benchmarks/peers.py``: networks, tasks, timing, and the page they are written to."""
