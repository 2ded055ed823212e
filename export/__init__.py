"""Turns a checkpoint into an artifact: ONNX graphs with their sparsity preserved, calibration, audit.

May import `training` and `runtime`; nothing but benchmarks and tests imports from here.
"""
