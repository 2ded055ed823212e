"""Our own sparse engine: machine code for sparse networks, generated with LLVM. See docs/native-engine.md.

Others use `engine.NativeEngine` through `runtime.engines`, and nothing else of this package.
"""
