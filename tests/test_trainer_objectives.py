"""Objectives in the trainer: projections, schedules, layer maps, and teachers that give what they read."""

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tkd_hf import DistillationTrainer, SoftLabels, TKDModel, student_from_teacher
from tkd_hf.data.features import tokenize

from .conftest import WORDS, build_tokenizer
from .training import arguments, losses, student_of, weights


ALL_FEATURES = {"logits": 0.5, "hard": 0.1, "hidden": 1.0, "cosine": 0.3, "embeddings": 0.2, "relations": 1.0}


def narrow_student(teacher, dropout=0.0):
    """Half as wide as the teacher: hidden states, cosine and embeddings learn projections."""
    torch.manual_seed(5)
    config = student_of(teacher, dropout).config
    config.hidden_size, config.embedding_size, config.head_dim = 8, 8, 4
    return type(student_of(teacher))(config)


def projections(trainer) -> dict[str, torch.Tensor]:
    return trainer.objective.modules.state_dict()


def test_all_objectives_together_are_logged_one_by_one(build):
    trainer = build(objectives=ALL_FEATURES | {"attention": 0.1})
    losses(trainer)
    for entry in trainer.state.log_history[:-1]:
        parts = {name: entry[f"loss_{name}"] for name in trainer.objective.names}
        assert set(parts) == {*ALL_FEATURES, "attention"}
        weighted = sum(weight * parts[name] for name, weight in trainer.args.objectives.items())
        assert entry["loss"] == pytest.approx(weighted, abs=1e-3)


def test_accumulation_with_features_and_projections(build, teacher):
    fields = {"objectives": ALL_FEATURES, "optim": "sgd", "max_grad_norm": 0.0}
    whole = build(model=narrow_student(teacher), per_device_train_batch_size=8, **fields)
    parts = build(model=narrow_student(teacher), per_device_train_batch_size=2, gradient_accumulation_steps=4, **fields)
    for name, tensor in projections(parts).items():
        tensor.copy_(projections(whole)[name])
    np.testing.assert_allclose(losses(whole), losses(parts), atol=1e-3)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)
    for name, tensor in projections(whole).items():
        torch.testing.assert_close(tensor, projections(parts)[name], atol=1e-6, rtol=1e-5)


def test_projections_are_learned_resumed_and_not_exported(build, teacher, tmp_path):
    """From the middle of the second epoch, bit for bit; then the saved folder holds the student alone."""
    fields = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3, "objectives": ALL_FEATURES}
    whole = build(model=narrow_student(teacher, dropout=0.1), **fields)
    before = {name: tensor.clone() for name, tensor in projections(whole).items()}
    losses(whole)
    assert set(before) == {f"{name}.projection.weight" for name in ("hidden", "cosine", "embeddings")}
    for name, tensor in projections(whole).items():
        assert not torch.equal(tensor, before[name])
    torch.manual_seed(99)
    again = build(model=narrow_student(teacher, dropout=0.1), **fields)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)
    for name, tensor in projections(whole).items():
        torch.testing.assert_close(tensor, projections(again)[name], atol=0, rtol=0)
    whole.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("projections*"))
    reloaded = type(whole.model).from_pretrained(tmp_path / "saved")
    assert reloaded.state_dict().keys() == narrow_student(teacher).state_dict().keys()


def test_gradients_of_projections_are_those_of_their_own_step(build, teacher):
    """The Trainer zeroes the student's gradients alone."""
    trainer = build(model=narrow_student(teacher), objectives={"hidden": 1.0})
    trainer.train()
    assert all(parameter.grad is None for parameter in trainer.objective.modules.parameters())


def test_a_checkpoint_of_other_objectives_is_refused(build, teacher, tmp_path):
    build(model=narrow_student(teacher), save_strategy="epoch").train()
    other = build(model=narrow_student(teacher), save_strategy="epoch", objectives={"hidden": 1.0})
    with pytest.raises(ValueError, match=r"checkpoint-2 holds the projections \{\}, but objectives=\{'hidden': 1.0\}"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_gradient_checkpointing_changes_no_gradient(build):
    new_name = "activation_checkpointing"  # renamed within the supported range
    name = new_name if hasattr(TrainingArguments, new_name) else "gradient_checkpointing"
    plain, saving = (build(objectives=ALL_FEATURES, optim="sgd", **{name: value}) for value in (False, True))
    np.testing.assert_allclose(losses(plain), losses(saving), atol=1e-4)
    torch.testing.assert_close(weights(plain), weights(saving), atol=1e-6, rtol=1e-5)


def test_weights_and_temperature_move_linearly_with_the_steps(build, teacher):
    """From soft to hard over four steps: at step n of 4 the loss is (1 - n/4) logits + n/4 hard."""
    trainer = build(objectives={"logits": 1.0}, final_objectives={"hard": 1.0}, final_temperature=1.0)
    losses(trainer)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        expected = (1 - step / 4) * entry["loss_logits"] + step / 4 * entry["loss_hard"]
        assert entry["loss"] == pytest.approx(expected, abs=1e-4)
    assert trainer.objective.modules["logits"].temperature == pytest.approx(2 - 3 / 4)


def test_a_schedule_is_resumed_where_it_was(build, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 3, "final_objectives": {"hard": 1.0}, "final_temperature": 5.0}
    whole = build(**fields)
    losses(whole)
    again = build(**fields)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)


@pytest.mark.parametrize("cached", [True, False])
def test_features_need_a_live_teacher_and_say_so_at_construction(build, tmp_path, teacher, tokenizer, features, cached):
    rows = SoftLabels.compute(teacher, tokenizer, features).attach(features) if cached else features
    why = "soft labels do not hold" if cached else "only a teacher gives"
    with pytest.raises(ValueError, match=rf"relations read the teacher's keys, queries, values, which {why}: pass"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"relations": 1.0}),
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_features_of_another_tokenizer_are_refused(tmp_path, tokenizer, examples, teacher):
    other = build_tokenizer(WORDS[:5] + WORDS[:4:-1])
    rows = tokenize(examples, tokenizer, teacher_tokenizer=other)
    with pytest.raises(
        ValueError, match=r"different tokenizers, so their tokens cannot be compared .* as hidden needs"
    ):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"hidden": 1.0}),
            teacher_model=teacher,
            teacher_processing_class=other,
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_the_layer_map_is_that_of_the_student_unless_another_is_given(build, teacher):
    chosen = student_from_teacher(teacher, layers=[0, 2])
    for model, fields, expected in (
        (chosen, {}, (0, 2)),
        (chosen, {"layer_map": "last"}, (2, 3)),
        (chosen, {"layer_map": "3,3"}, (3, 3)),
        (narrow_student(teacher), {}, (1, 3)),
    ):
        trainer = build(model=model, objectives={"hidden": 1.0}, **fields)
        assert trainer.objective.modules["hidden"].layer_map == expected


def test_a_bare_encoder_learns_from_features_alone(build, teacher, features):
    student = TKDModel.from_teacher(teacher, num_hidden_layers=2)
    fields = {"per_device_train_batch_size": 8, "num_train_epochs": 10}
    unlabelled = features.remove_columns("label")
    trainer = build(model=student, objectives={"relations": 1.0, "hidden": 1.0}, data=unlabelled, **fields)
    found = losses(trainer)
    assert found[-1] < found[0]
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match=r"TKDModel has no head, so logits, hard have no answers to learn from"):
        build(model=student)


def test_evaluation_without_labels_has_a_loss_where_none_are_needed(build, features):
    trainer = build(objectives={"logits": 1.0, "relations": 1.0})
    unlabelled = features.remove_columns("label")
    with_labels, without = trainer.evaluate(features), trainer.evaluate(unlabelled)
    assert without["eval_loss"] == pytest.approx(with_labels["eval_loss"], abs=1e-6)
    assert without["eval_loss_relations"] == pytest.approx(with_labels["eval_loss_relations"], abs=1e-6)


def test_features_of_several_teachers_are_refused(build, tmp_path, teacher, features, tokenizer):
    with pytest.raises(
        ValueError, match=r"hidden read the teacher's hidden_states, which cannot be averaged over 2: pass one"
    ):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"hidden": 1.0}),
            teacher_model=[teacher, teacher],
            train_dataset=features,
            processing_class=tokenizer,
        )
