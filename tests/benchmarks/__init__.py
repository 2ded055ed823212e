"""Tests of `benchmarks/`: what is measured and how it is reckoned. None asserts a duration."""
