"""Sparsity as a small algebra: distribution, granularity, update rule and schedule compose into a plan.

Imports PyTorch and nothing else of this project.
"""
