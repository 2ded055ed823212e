"""Produces sparse multi-head checkpoints: networks, sparsity, data, the training loop, evaluation.

PyTorch lives here and in `export`, nowhere else. Imports from `runtime` only.
"""
