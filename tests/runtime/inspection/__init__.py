"""Tests of the verb `inspect`."""
