"""What runs inside the server's processes, and the reaper beside them; imports nothing of perfguard.

`site/` goes on the import path of every server, `stand_in/` (kernels) and `stand_in_layers/` where
the GPU kernels are stood in for. `reaper.py` and `tiny_model.py` are scripts.
"""
