"""Post-training static quantization: the fp32 graphs of an artifact become int8 graphs in QDQ form, and a new artifact.

May import `export`, `training` and `runtime`; only `export`, benchmarks and tests import from here.
"""
