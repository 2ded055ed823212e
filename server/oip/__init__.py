"""The Open Inference Protocol, version 2, REST: what goes over the wire and what it means, without any routes.

`codec` reads and writes JSON, tensors and the binary tensor extension; `request` and `reply` translate to and from what
the core predicts; `describe` and `statistics` say what is served. The routes are in server/oip_api.py.
"""
