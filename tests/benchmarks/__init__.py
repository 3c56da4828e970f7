"""Figures, not pass or fail: `python -m tests.benchmarks [--quick] [--json FILE]`.

Every figure stands beside a baseline that was measured in the same run, turn and turn about: the machine may be
small, shared and noisy, the ratios hold. Everything runs on 127.0.0.1 with a private Redis server, a real worker
process and a receiver in a process of its own; it takes about three minutes, `--quick` one.
"""
