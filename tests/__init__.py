"""Tests, one folder per package; `artifacts.py` writes the small artifacts that several of them share.

Tests may import everything; nothing imports tests.
"""
