"""Networks as parts (stem, blocks, classifier), and the one mechanism that splits any of them into trunk and heads.

Imports PyTorch and `training.config`; `training` and `export` import from here.
"""
