"""Objectives in the trainer: projections, schedules, layer maps, and which teachers they need."""

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tkd_hf import (
    DistillationCollator,
    DistillationTrainer,
    ObjectiveSetup,
    Signals,
    SoftLabels,
    TKDModel,
    student_from_teacher,
)
from tkd_hf.data.tokenization import tokenize

from ..factories import FAST, WORDS, arguments, build_tokenizer, losses, read_json, student_of, weights


ALL_FEATURES = {"logits": 0.5, "hard": 0.1, "hidden": 1.0, "cosine": 0.3, "embeddings": 0.2, "relations": 1.0}


def narrow_student(teacher, dropout=0.0):
    """Return a student half as wide as the teacher, for which hidden, cosine and embeddings learn projections."""
    torch.manual_seed(5)
    config = student_of(teacher, dropout).config
    config.hidden_size, config.embedding_size, config.head_dim = 8, 8, 4
    return type(student_of(teacher))(config)


def projections(trainer) -> dict[str, torch.Tensor]:
    return trainer.objective.modules.state_dict()


def test_every_objective_is_logged_and_their_weighted_sum_is_the_loss(build):
    trainer = build(objectives=ALL_FEATURES | {"attention": 0.1})
    losses(trainer)
    for entry in trainer.state.log_history[:-1]:
        components = {name: entry[f"loss_{name}"] for name in trainer.objective.names}
        assert set(components) == {*ALL_FEATURES, "attention"}
        weighted = sum(weight * components[name] for name, weight in trainer.args.objectives.items())
        assert entry["loss"] == pytest.approx(weighted, abs=1e-3)


def test_gradient_accumulation_is_exact_for_features_and_projections(build, teacher):
    fields = {"objectives": ALL_FEATURES, "optim": "sgd", "max_grad_norm": 0.0}
    single = build(model=narrow_student(teacher), per_device_train_batch_size=8, **fields)
    accumulated = build(
        model=narrow_student(teacher), per_device_train_batch_size=2, gradient_accumulation_steps=4, **fields
    )
    for name, tensor in projections(accumulated).items():
        tensor.copy_(projections(single)[name])
    np.testing.assert_allclose(losses(single), losses(accumulated), atol=1e-3)
    torch.testing.assert_close(weights(single), weights(accumulated), atol=1e-6, rtol=1e-5)
    for name, tensor in projections(single).items():
        torch.testing.assert_close(tensor, projections(accumulated)[name], atol=1e-6, rtol=1e-5)


def test_projections_are_learned_and_resumed_but_not_exported(build, teacher, tmp_path):
    """Resuming in the middle of the second epoch is exact; the exported folder has the student only."""
    fields = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3, "objectives": ALL_FEATURES}
    uninterrupted = build(model=narrow_student(teacher, dropout=0.1), **fields)
    before = {name: tensor.clone() for name, tensor in projections(uninterrupted).items()}
    losses(uninterrupted)
    assert set(before) == {f"{name}.projection.weight" for name in ("hidden", "cosine", "embeddings")}
    for name, tensor in projections(uninterrupted).items():
        assert not torch.equal(tensor, before[name])
    torch.manual_seed(99)
    resumed = build(model=narrow_student(teacher, dropout=0.1), **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)
    for name, tensor in projections(uninterrupted).items():
        torch.testing.assert_close(tensor, projections(resumed)[name], atol=0, rtol=0)
    uninterrupted.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("projections*"))
    reloaded = type(uninterrupted.model).from_pretrained(tmp_path / "saved")
    assert reloaded.state_dict().keys() == narrow_student(teacher).state_dict().keys()


def test_gradients_of_projections_are_zeroed_after_each_step(build, teacher):
    """The Trainer zeroes only the gradients of the student."""
    trainer = build(model=narrow_student(teacher), objectives={"hidden": 1.0})
    trainer.train()
    assert all(parameter.grad is None for parameter in trainer.objective.modules.parameters())


def test_resuming_from_a_checkpoint_of_other_objectives_is_refused(build, teacher, tmp_path):
    build(model=narrow_student(teacher), save_strategy="epoch").train()
    trainer = build(model=narrow_student(teacher), save_strategy="epoch", objectives={"hidden": 1.0})
    with pytest.raises(ValueError, match=r"checkpoint-2 holds the projections \{\}, but objectives=\{'hidden': 1.0\}"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_gradient_checkpointing_changes_no_gradient(build):
    new_name = "activation_checkpointing"  # renamed within the supported range
    name = new_name if hasattr(TrainingArguments, new_name) else "gradient_checkpointing"
    plain, checkpointing = (build(objectives=ALL_FEATURES, optim="sgd", **{name: value}) for value in (False, True))
    np.testing.assert_allclose(losses(plain), losses(checkpointing), atol=1e-4)
    torch.testing.assert_close(weights(plain), weights(checkpointing), atol=1e-6, rtol=1e-5)


def test_objective_weights_and_temperature_change_linearly(build, teacher):
    """From `logits` to `hard` in four steps, the loss of step n is (1 - n/4) logits + n/4 hard."""
    trainer = build(objectives={"logits": 1.0}, final_objectives={"hard": 1.0}, final_temperature=1.0)
    losses(trainer)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        expected = (1 - step / 4) * entry["loss_logits"] + step / 4 * entry["loss_hard"]
        assert entry["loss"] == pytest.approx(expected, abs=1e-4)
    assert trainer.objective.modules["logits"].temperature == pytest.approx(2 - 3 / 4)


def test_schedules_continue_after_resuming(build, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 3, "final_objectives": {"hard": 1.0}, "final_temperature": 5.0}
    uninterrupted = build(**fields)
    losses(uninterrupted)
    resumed = build(**fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)


@pytest.mark.parametrize("cached", [True, False])
def test_feature_objectives_without_a_live_teacher_are_refused(build, tmp_path, teacher, tokenizer, features, cached):
    rows = SoftLabels.compute(teacher, tokenizer, features).attach(features) if cached else features
    problem = "soft labels do not contain" if cached else "need a live teacher"
    with pytest.raises(ValueError, match=rf"relations read the teacher's keys, queries, values, which {problem}; pass"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"relations": 1.0}),
            train_dataset=rows,
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("weights", [None, [2.0]])
def test_a_single_teacher_gives_features_whatever_its_weight(tmp_path, tokenizer, features, teacher, weights):
    trainer = DistillationTrainer(
        student_of(teacher),
        arguments(tmp_path, objectives={"relations": 1.0}),
        teacher_model=teacher,
        teacher_weights=weights,
        train_dataset=features,
        processing_class=tokenizer,
    )
    assert losses(trainer)[0] > 0


def test_a_teacher_tokenizer_without_one_of_the_student_is_refused(tmp_path, tokenizer, features, teacher):
    """Nothing shows that the two are the same, so the data must have features for the teacher."""
    with pytest.raises(ValueError, match=r"different tokenizers.*add them with"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path),
            teacher_model=teacher,
            teacher_processing_class=tokenizer,
            data_collator=DistillationCollator(tokenizer),
            train_dataset=features,
        )


def test_feature_objectives_with_another_tokenizer_are_refused(tmp_path, tokenizer, examples, teacher):
    permuted_tokenizer = build_tokenizer(WORDS[:5] + WORDS[:4:-1])
    rows = tokenize(examples, tokenizer, teacher_tokenizer=permuted_tokenizer)
    with pytest.raises(ValueError, match=r"different tokenizers, .* tokens cannot be compared .* hidden needs"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"hidden": 1.0}),
            teacher_model=teacher,
            teacher_processing_class=permuted_tokenizer,
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_layer_map_defaults_to_the_layers_that_the_student_was_built_from(build, teacher):
    cut_out = student_from_teacher(teacher, layers=[0, 2])
    for model, fields, expected in (
        (cut_out, {}, (0, 2)),
        (cut_out, {"layer_map": "last"}, (2, 3)),
        (cut_out, {"layer_map": "3,3"}, (3, 3)),
        (narrow_student(teacher), {}, (1, 3)),
    ):
        trainer = build(model=model, objectives={"hidden": 1.0}, **fields)
        assert trainer.objective.modules["hidden"].layer_map == expected


def test_a_bare_encoder_learns_from_features_and_refuses_logits(build, teacher, features):
    student = TKDModel.from_teacher(teacher, num_hidden_layers=2)
    fields = {"per_device_train_batch_size": 8, "num_train_epochs": 10}
    unlabelled = features.remove_columns("label")
    trainer = build(model=student, objectives={"relations": 1.0, "hidden": 1.0}, data=unlabelled, **fields)
    step_losses = losses(trainer)
    assert step_losses[-1] < step_losses[0]
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match=r"TKDModel has no head and gives no logits, which logits, hard need"):
        build(model=student)


def test_evaluation_loss_of_unlabelled_data_equals_that_of_labelled_data(build, features):
    trainer = build(objectives={"logits": 1.0, "relations": 1.0})
    labelled, unlabelled = trainer.evaluate(features), trainer.evaluate(features.remove_columns("label"))
    assert unlabelled["eval_loss"] == pytest.approx(labelled["eval_loss"], abs=1e-6)
    assert unlabelled["eval_loss_relations"] == pytest.approx(labelled["eval_loss_relations"], abs=1e-6)


def test_feature_objectives_with_several_teachers_are_refused(build, tmp_path, teacher, features, tokenizer):
    with pytest.raises(
        ValueError, match=r"hidden read the teacher's hidden_states, which cannot be averaged over 2 teachers; pass one"
    ):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path, objectives={"hidden": 1.0}),
            teacher_model=[teacher, teacher],
            train_dataset=features,
            processing_class=tokenizer,
        )


# --- an objective from outside the package ---------------------------------------------------------------------------


def test_an_objective_from_outside_equals_the_value_by_hand(extension):
    objective = extension("Add an objective").CentredLogits
    setup = ObjectiveSetup(args=None, problem_type="single_label_classification")
    student, teacher = Signals(torch.tensor([[3.0, 1.0], [0.0, 0.0]])), Signals(torch.tensor([[1.0, 1.0], [7.0, 5.0]]))
    # centred, the student has (1, -1) and (0, 0), the teacher (0, 0) and (1, -1)
    assert objective.build(setup)(student, teacher, {}).item() == 1.0


@pytest.mark.parametrize("cached", [False, True])
def test_an_objective_from_outside_trains_with_live_and_cached_logits(build, extension, cached):
    extension("Add an objective")
    trainer = build(cached, objectives={"centred_logits": 1.0, "hard": 0.1}, num_train_epochs=20, learning_rate=1e-2)
    trainer.train()
    values = [entry["loss_centred_logits"] for entry in trainer.state.log_history if "loss_centred_logits" in entry]
    assert values[-1] < 0.5 * values[0]


def test_an_objective_from_outside_is_an_option_and_recorded(run, extension, tmp_path, teacher_folder, sst2_dir):
    extension("Add an objective")
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 1, *FAST.split(), "--output-dir", tmp_path / "out"]
    code, _, err = run("distill", teacher_folder, *args, "--objectives", '{"centred_logits": 1.0}')
    assert code == 0, err
    record = read_json(tmp_path / "out" / "tkd_run.json")
    assert record["arguments"]["objectives"] == {"centred_logits": 1.0}
    assert record["metrics"]["loss_centred_logits"] == pytest.approx(record["metrics"]["loss"], abs=1e-4)
    assert "1 × centred_logits" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
