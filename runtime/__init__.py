"""Runs artifacts: manifest, preprocessing, engines, vote. Needs neither PyTorch nor HTTP.

Everything else may import from here; nothing here imports from `training`, `export`, `server` or `benchmarks`.
"""
