"""Sparsity as three independent things that compose: distribution, update rule, schedule; and the masks they act on.

Imports PyTorch and nothing else of this project.
"""
