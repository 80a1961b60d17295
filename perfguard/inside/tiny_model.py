"""Write a tiny Qwen2.5-VL: configuration, byte-level tokenizer and preprocessor, no weights (the server makes dummy ones).

Run with the managed environment's Python: `python tiny_model.py DIRECTORY`. The directory appears at once and complete, and its
bytes depend on this file and on the version of `tokenizers` only.
"""

import json
import os
import shutil
import sys
import tempfile

VOCABULARY_SIZE = 512  # 256 bytes and the special tokens, rounded up to what tensor parallelism can divide
HIDDEN_SIZE = 128
HEADS = 4
HEAD_SIZE = HIDDEN_SIZE // HEADS
PATCH_PX = 14
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(directory):
    parent = os.path.dirname(os.path.abspath(directory))
    os.makedirs(parent, exist_ok=True)
    building = tempfile.mkdtemp(prefix=".tiny-model-", dir=parent)
    try:
        write_model(building)
        os.chmod(building, 0o755)
        os.rename(building, directory)
    except OSError:
        # Another process was first; its copy has the same bytes.
        if not os.path.isdir(directory):
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_model(directory):
    token_ids = write_tokenizer(directory)
    write_json(directory, "config.json", model_config(token_ids))
    write_json(
        directory,
        "generation_config.json",
        {"eos_token_id": [token_ids["<|im_end|>"]], "pad_token_id": token_ids["<|endoftext|>"], "do_sample": False},
    )
    write_json(
        directory,
        "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 4 * PATCH_PX**2 * 4,
            "max_pixels": 12_845_056,
            "patch_size": PATCH_PX,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )


def write_tokenizer(directory):
    """Write a tokenizer of single bytes and return the ids of the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    token_ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    write_json(directory, "vocab.json", vocabulary)
    with open(os.path.join(directory, "merges.txt"), "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n")
    write_json(
        directory,
        "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2TokenizerFast",
            "processor_class": "Qwen2_5_VLProcessor",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 32768,
            "chat_template": CHAT_TEMPLATE,
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "added_tokens_decoder": {str(token_ids[token]): {"content": token, **flags} for token in SPECIAL_TOKENS},
        },
    )
    return token_ids


def model_config(token_ids):
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY_SIZE,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": token_ids["<|endoftext|>"],
        "eos_token_id": token_ids["<|im_end|>"],
        "vision_start_token_id": token_ids["<|vision_start|>"],
        "vision_end_token_id": token_ids["<|vision_end|>"],
        "vision_token_id": token_ids["<|vision_pad|>"],
        "image_token_id": token_ids["<|image_pad|>"],
        "video_token_id": token_ids["<|video_pad|>"],
        # Time, height and width share half a head's rotary dimensions as 2:3:3, as in the real model.
        "rope_scaling": {"type": "mrope", "mrope_section": [HEAD_SIZE // 8, HEAD_SIZE * 3 // 16, HEAD_SIZE * 3 // 16]},
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_act": "silu",
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 2 * HIDDEN_SIZE,
            "num_heads": HEADS,
            "in_channels": 3,
            "in_chans": 3,
            "out_hidden_size": HIDDEN_SIZE,
            "patch_size": PATCH_PX,
            "spatial_merge_size": 2,
            "spatial_patch_size": PATCH_PX,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
    }


def write_json(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=True)


if __name__ == "__main__":
    main(sys.argv[1])
