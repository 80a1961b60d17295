"""Stands in for the few layers that SGLang takes from vLLM on a CPU without AMX: it gets its own back.

Only what the server asks for exists here; any other import from vLLM fails, as it does where vLLM is not installed.
"""

import perfguard_hook

__version__ = "0.0.0"

perfguard_hook.record(replaced="vllm", detail="layer stand-in: SGLang's own activation and norm layers")
