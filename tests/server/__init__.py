"""Tests of the server: the real application, on a real socket, with small genuine artifacts.

They import from `server`, `runtime` and `tests.artifacts`.
"""
