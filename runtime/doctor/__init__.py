"""The verb `doctor`: what this machine offers, what is installed, and the command that adds what is missing.

`machine` and `software` look, `doctor` shows. Nothing imports from here.
"""
