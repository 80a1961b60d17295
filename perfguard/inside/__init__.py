"""What runs inside the server's processes, and the reaper beside them; imports nothing of perfguard.

`site/` goes on the import path of every server, `stand_in/` where the GPU kernels are stood in for, `stand_in_cpu/` where there is no
GPU. `reaper.py` and `tiny_model.py` are scripts.
"""
