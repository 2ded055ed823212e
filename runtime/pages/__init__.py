"""Self-contained HTML pages: charts as inline SVG, tables, one style sheet, and how a template becomes a page.

`runtime.inspection` and `training.report` are made of it; nothing here knows what a page is about.
"""
