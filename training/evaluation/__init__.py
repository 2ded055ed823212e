"""What the verb `evaluate` measures beside accuracy: how heads differ, what confidence is worth, robustness, and cost.

`training.evaluate` puts it together. Imports `training` and `runtime`; nothing imports from here but that verb, the
benchmarks and tests.
"""
