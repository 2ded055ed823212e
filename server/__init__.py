"""Serves artifacts over HTTP: reads requests, decodes inputs, runs predictors in worker threads, replies.

May import from `runtime` only; inside, each file imports only from those above it in the order settings, errors, work,
keys, logs, config, admission, metrics, schema, catalog, serving_file, decode, compression, batcher, models, reconcile,
middleware, routing, core, oip, predict_api, oip_api, page_api, admin_api, admin_port, protocol, process, app.
`client` is for those who ask the server: it stands beside them all.
"""
