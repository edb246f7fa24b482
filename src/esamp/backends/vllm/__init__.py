"""ESamp inside stock vLLM: a plugin that it finds by itself, and a `Generator`.

`plugin.py` is where vLLM comes in; then `pilot.py` (a step), `roster.py` (who is in which group),
`model.py` (where states come from), `v1.py` and `v2.py` (the two model runners).
"""
