"""What a model costs."""

import torch
from transformers import AutoModelForMaskedLM, BertConfig

from tkd_hf.evaluation.cost import megabytes, milliseconds_per_sentence, parameters


def test_size_is_that_of_the_saved_weights(teacher, tmp_path):
    teacher.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size / 1e6
    assert 0 <= size - megabytes(teacher) < 0.01  # the header
    assert megabytes(teacher.to(torch.bfloat16)) < 0.51 * size


def test_tied_weights_count_once():
    model = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=50, hidden_size=8, num_attention_heads=1))
    assert parameters(model) == sum(tensor.numel() for tensor in set(model.parameters()))
    assert parameters(model) == model.num_parameters()


def test_every_model_is_timed(teacher, tokenizer):
    times = milliseconds_per_sentence([(teacher, tokenizer)] * 2, [("good film",), ("dull", "not good")])
    assert len(times) == 2
    assert all(0 < time < 1e4 for time in times)
