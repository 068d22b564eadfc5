"""Word embeddings of which only the rows in use are trained: the same student, with less to compute."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from tests.conftest import WORDS
from tests.training import arguments, student_of
from tkd_hf import trainer as module
from tkd_hf.rows_in_use import PartlyTrainedEmbedding, restore_word_embeddings, train_rows_in_use


UNUSED = [WORDS.index("[UNK]"), WORDS.index("[MASK]")]


def embedding(model) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


@pytest.mark.parametrize("clipped", [1e-3, 1e3])
def test_training_the_rows_in_use_is_training_all(build, teacher, tmp_path, monkeypatch, clipped):
    before, ends = embedding(student_of(teacher)), []
    for whole in (False, True):
        trainer = build(args=arguments(tmp_path, max_grad_norm=clipped), model=student_of(teacher))
        with monkeypatch.context() as changed:
            if whole:
                changed.setattr(module, "train_rows_in_use", lambda *_: None)
            trainer.train()
        shapes = {tuple(state["exp_avg"].shape) for state in trainer.optimizer.state.values()}
        assert ((len(WORDS) - 2, before.shape[1]) in shapes) is not whole
        assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
        ends.append(trainer.model.state_dict())
    torch.testing.assert_close(*map(dict, ends), rtol=0, atol=1e-6)
    after = embedding(trainer.model)
    torch.testing.assert_close(after[UNUSED], before[UNUSED], rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_a_second_training_goes_on_as_one_of_all_rows_does(build, teacher, tmp_path, monkeypatch):
    ends = []
    for whole in (False, True):
        trainer = build(args=arguments(tmp_path), model=student_of(teacher))
        with monkeypatch.context() as changed:
            if whole:
                changed.setattr(module, "train_rows_in_use", lambda *_: None)
            trainer.train()
            trainer.train()
        ends.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_it_is_saved_loaded_and_evaluated_as_the_embedding_itself():
    whole = torch.nn.Embedding(6, 2, padding_idx=0)
    used, ids = PartlyTrainedEmbedding(whole, torch.tensor([0, 2, 5])), torch.arange(6)
    with torch.no_grad():
        used.trained_rows += 1
    saved = used.state_dict()
    assert list(saved) == ["weight"]
    torch.testing.assert_close(used.eval()(ids), saved["weight"])  # words that training lacks are there, too
    torch.testing.assert_close(whole(ids), saved["weight"])
    other = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=0), torch.tensor([2, 3]))
    other.load_state_dict(saved)
    torch.testing.assert_close(other.train()(torch.tensor([2, 3])), saved["weight"][[2, 3]])


def test_a_model_that_is_moved_meanwhile_keeps_what_it_learned(teacher, features):
    model = student_of(teacher)
    used = train_rows_in_use(model, features, 0, "adamw_torch", 0.0)
    model.double()
    with torch.no_grad():
        used.trained_rows += 1
    restore_word_embeddings(model)
    weight = model.get_input_embeddings().weight
    assert weight.dtype == torch.float64
    torch.testing.assert_close(weight[used.rows], used.trained_rows.detach())


def test_padding_learns_nothing():
    used = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=2), torch.tensor([2, 3]))
    used(torch.tensor([2, 3])).sum().backward()
    assert used.trained_rows.grad.tolist() == [[0, 0], [1, 1]]


def test_all_rows_are_trained_where_it_would_not_be_the_same(teacher, features):
    def trained(data=features, optimizer="adamw_torch", weight_decay=0.0, change=lambda model: None):
        model = student_of(teacher)
        change(model)
        found = train_rows_in_use(model, data, 0, optimizer, weight_decay)
        restore_word_embeddings(model)
        assert type(model.get_input_embeddings()) is torch.nn.Embedding
        return found

    assert trained() is not None
    assert trained(weight_decay=0.1) is None
    assert trained(optimizer="adafactor") is None
    assert trained(data=Dataset.from_dict({"input_ids": [list(range(len(WORDS)))]})) is None
    assert trained(data=features.with_transform(lambda rows: rows)) is None
    assert trained(data=[{"input_ids": [1]}]) is None
    assert trained(change=lambda model: model.get_input_embeddings().requires_grad_(False)) is None
    assert trained(change=lambda model: model.get_input_embeddings().register_forward_hook(print)) is None


def test_another_collator_may_make_tokens_up(build, tokenizer, teacher, tmp_path):
    trainer = build()
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.create_optimizer()
    assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
