"""What runs inside the server's processes, and the reaper beside them; imports nothing of perfguard.

`site/` goes on the import path of every server, `stand_in/` only where there is no GPU. `reaper.py` and
`tiny_model.py` are scripts.
"""
