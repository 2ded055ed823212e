"""The kernels, as functions that emit LLVM IR; `library` collects them. Only `compile` and tests import from here.

A kernel computes one item of a step: `void kernel(int64 *args, int64 item, int64 thread)`. What `args` holds is said by
its tuple of field names; addresses and strides are in bytes, vectors have 16 lanes of float32.
"""
