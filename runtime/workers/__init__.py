"""An engine in worker processes, each pinned to cores of its own, behind the interface of every other engine.

`runtime.workers.engine` holds the way in, `load_workers`; only the server needs it. Linux only. A worker starts as a
fresh interpreter: `bond` ties it to its parent before anything heavy is imported, `child` serves the calls.
"""
