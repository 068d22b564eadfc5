"""Training only the embedding rows in use gives the same student as training all rows."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from tests.conftest import WORDS
from tests.factories import arguments, student_of
from tkd_hf.training import trainer as trainer_module
from tkd_hf.training.rows_in_use import PartlyTrainedEmbedding, restore_word_embeddings, train_rows_in_use


UNUSED = [WORDS.index("[UNK]"), WORDS.index("[MASK]")]


def embedding_weight(model) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


@pytest.mark.parametrize("max_grad_norm", [1e-3, 1e3])
def test_training_rows_in_use_gives_the_weights_of_training_all_rows(
    build, teacher, tmp_path, monkeypatch, max_grad_norm
):
    before, final_states = embedding_weight(student_of(teacher)), []
    for train_all in (False, True):
        trainer = build(args=arguments(tmp_path, max_grad_norm=max_grad_norm), model=student_of(teacher))
        with monkeypatch.context() as patch:
            if train_all:
                patch.setattr(trainer_module, "train_rows_in_use", lambda *_: None)
            trainer.train()
        shapes = {tuple(state["exp_avg"].shape) for state in trainer.optimizer.state.values()}
        assert ((len(WORDS) - 2, before.shape[1]) in shapes) is not train_all
        assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
        final_states.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*final_states, rtol=0, atol=1e-6)
    after = embedding_weight(trainer.model)
    torch.testing.assert_close(after[UNUSED], before[UNUSED], rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_a_second_call_of_train_gives_the_weights_of_training_all_rows(build, teacher, tmp_path, monkeypatch):
    final_states = []
    for train_all in (False, True):
        trainer = build(args=arguments(tmp_path), model=student_of(teacher))
        with monkeypatch.context() as patch:
            if train_all:
                patch.setattr(trainer_module, "train_rows_in_use", lambda *_: None)
            trainer.train()
            trainer.train()
        final_states.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*final_states, rtol=0, atol=1e-6)


def test_a_partly_trained_embedding_is_saved_loaded_and_evaluated_like_the_original():
    original, ids = torch.nn.Embedding(6, 2, padding_idx=0), torch.arange(6)
    embedding = PartlyTrainedEmbedding(original, torch.tensor([0, 2, 5]))
    with torch.no_grad():
        embedding.trained_rows += 1
    saved = embedding.state_dict()
    assert list(saved) == ["weight"]
    torch.testing.assert_close(embedding.eval()(ids), saved["weight"])  # evaluation may use all ids
    torch.testing.assert_close(original(ids), saved["weight"])
    target = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=0), torch.tensor([2, 3]))
    target.load_state_dict(saved)
    torch.testing.assert_close(target.train()(torch.tensor([2, 3])), saved["weight"][[2, 3]])


def test_trained_rows_survive_a_change_of_the_models_dtype(teacher, features):
    model = student_of(teacher)
    embedding = train_rows_in_use(model, features, 0, "adamw_torch", 0.0)
    model.double()
    with torch.no_grad():
        embedding.trained_rows += 1
    restore_word_embeddings(model)
    weight = model.get_input_embeddings().weight
    assert weight.dtype == torch.float64
    torch.testing.assert_close(weight[embedding.rows], embedding.trained_rows.detach())


def test_the_row_of_the_padding_token_gets_no_gradient():
    embedding = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=2), torch.tensor([2, 3]))
    embedding(torch.tensor([2, 3])).sum().backward()
    assert embedding.trained_rows.grad.tolist() == [[0, 0], [1, 1]]


def test_all_rows_are_trained_if_the_result_could_differ(teacher, features):
    def replacement(data=features, optimizer="adamw_torch", weight_decay=0.0, change=lambda model: None):
        model = student_of(teacher)
        change(model)
        embedding = train_rows_in_use(model, data, 0, optimizer, weight_decay)
        restore_word_embeddings(model)
        assert type(model.get_input_embeddings()) is torch.nn.Embedding
        return embedding

    assert replacement() is not None
    assert replacement(weight_decay=0.1) is None
    assert replacement(optimizer="adafactor") is None
    assert replacement(data=Dataset.from_dict({"input_ids": [list(range(len(WORDS)))]})) is None
    assert replacement(data=features.with_transform(lambda rows: rows)) is None
    assert replacement(data=[{"input_ids": [1]}]) is None
    assert replacement(change=lambda model: model.get_input_embeddings().requires_grad_(False)) is None
    assert replacement(change=lambda model: model.get_input_embeddings().register_forward_hook(print)) is None


def test_all_rows_are_trained_with_a_custom_collator(build, tokenizer, teacher, tmp_path):
    """Such a collator may produce token ids that the data does not contain."""
    trainer = build()
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.create_optimizer()
    assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
