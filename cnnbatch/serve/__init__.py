"""``cnnbatch serve``: archives in a browser, read-only. A gallery, IIIF, and a dashboard, from one process.

`command` starts it; `app` joins the parts; what needs no server is in modules of its own and knows nothing of HTTP: `iiif` and
`orientation` (rules), `index` and `figures` (what is in an archive), `reading` and `pixels` (rows and their pixels).
"""
