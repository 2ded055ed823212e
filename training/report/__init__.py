"""The verb `report`: one self-contained HTML page about a run.

`log` reads what was logged, `findings` measures what the heads say, `curves` and `predictions` draw it, and `page` is
what is shown.
"""
