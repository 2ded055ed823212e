"""Tests of `runtime`, on small but genuine artifacts."""
