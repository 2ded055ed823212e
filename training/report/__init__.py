"""The verb `report`: one self-contained HTML page about a run.

`log` reads what was logged, `findings` measures what the heads say, `charts` draws, `sections` decides what is shown.
"""
