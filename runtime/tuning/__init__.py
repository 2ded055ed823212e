"""Tuning: which engine, with which options, is the fastest for one artifact on this machine, measured and remembered.

`store.find_tuning` and the records are for anyone; the rest belongs to the verb `tune`.
"""
