"""Serves artifacts over HTTP: reads requests, decodes inputs, runs predictors in worker threads, replies.

May import from `runtime` only; inside, each file imports only from those above it in the order settings, errors, work,
metrics, decode, models, core, schema, predict_api, middleware, app.
"""
