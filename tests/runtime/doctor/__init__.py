"""Tests of the verb `doctor`."""
