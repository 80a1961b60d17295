"""The generated model's numbers fit each other, and its directory appears complete or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "perfguard" / "inside" / "tiny_model.py"


@pytest.fixture
def tiny_model():
    spec = importlib.util.spec_from_file_location("tiny_model_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sizes_fit_each_other(tiny_model):
    token_ids = {token: 256 + i for i, token in enumerate(tiny_model.SPECIAL_TOKENS)}
    config = tiny_model.model_config(token_ids)
    head_size = config["hidden_size"] // config["num_attention_heads"]
    assert sum(config["rope_scaling"]["mrope_section"]) == head_size // 2
    assert config["vision_config"]["out_hidden_size"] == config["hidden_size"]
    assert max(token_ids.values()) < config["vocab_size"]
    for sharded in ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size"):
        assert config[sharded] % 2 == 0


def test_a_failed_write_leaves_nothing(tiny_model, tmp_path, monkeypatch):
    def fail(directory):
        Path(directory, "config.json").write_text("{}")
        raise ModuleNotFoundError("No module named 'tokenizers'")

    monkeypatch.setattr(tiny_model, "write_model", fail)
    with pytest.raises(ModuleNotFoundError):
        tiny_model.main(str(tmp_path / "cache" / "model"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_second_writer_keeps_the_firsts_model(tiny_model, tmp_path, monkeypatch):
    first = tmp_path / "model"
    first.mkdir()
    (first / "config.json").write_text("first")
    monkeypatch.setattr(tiny_model, "write_model", lambda directory: Path(directory, "config.json").write_text("2nd"))
    tiny_model.main(str(first))
    assert (first / "config.json").read_text() == "first"
    assert list(tmp_path.iterdir()) == [first]


def test_a_place_that_cannot_be_written_is_an_error(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "model").write_text("a file")
    monkeypatch.setattr(tiny_model, "write_model", lambda _directory: None)
    with pytest.raises(OSError, match="Not a directory"):
        tiny_model.main(str(tmp_path / "model"))
