"""Serves artifacts over HTTP: reads requests, decodes inputs, runs predictors in worker threads, replies.

May import from `runtime` only; inside, each file imports only from those above it in the order settings, errors, work,
admission, metrics, catalog, serving_file, decode, compression, batcher, models, reconcile, core, schema, oip,
predict_api, oip_api, page_api, middleware, app. `client` is for those who ask the server: it stands beside them all.
"""
