"""SGLang's own norms; it asks for vLLM's at the end of the module that defines them."""

from sglang.srt.layers.layernorm import GemmaRMSNorm, RMSNorm

__all__ = ["GemmaRMSNorm", "RMSNorm"]
