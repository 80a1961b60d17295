"""SGLang's own activations; it asks for vLLM's at the end of the module that defines them."""

from sglang.srt.layers.activation import GeluAndMul, SiluAndMul

__all__ = ["GeluAndMul", "SiluAndMul"]
