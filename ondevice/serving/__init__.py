"""The parts of `serve`: a page to try a model, and an HTTP API (docs/serve.md).

`jobs.py` holds what was asked, by whom and how far it is: the one place that all threads share. `painter.py` draws, on
the process's main thread, which owns the session; `server.py` answers requests on a thread of its own, by the routes
of `app.py` (the page's) and `webui.py` (AUTOMATIC1111's). Nothing here is imported before its extra is known to be
there.
"""
