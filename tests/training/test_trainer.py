"""DistillationTrainer: the loss does not depend on how it is computed, and all else behaves like a Trainer."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from tkd_hf import DistillationTrainer, InputError, SoftLabels, student_from_teacher
from tkd_hf.core.names import label_names
from tkd_hf.data.tokenization import tokenize
from tkd_hf.evaluation.metrics import compute_metrics_for
from tkd_hf.objectives.divergences import categorical_divergence

from ..factories import (
    LABELS,
    TEXTS,
    WORDS,
    arguments,
    build_teacher,
    build_tokenizer,
    logits_of_texts,
    losses,
    student_of,
    weights,
)


def test_logged_loss_is_the_weighted_sum_of_the_logged_objectives(build):
    trainer = build(objectives={"logits": 0.7, "hard": 0.3})
    losses(trainer)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.7 * entry["loss_logits"] + 0.3 * entry["loss_hard"], abs=1e-4)


def test_first_loss_equals_the_divergence_computed_by_hand(build, teacher, features, tokenizer):
    trainer = build(objectives={"logits": 1.0}, temperature=3.0, per_device_train_batch_size=8)
    batch = trainer.data_collator([dict(row) for row in features])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        expected = categorical_divergence(trainer.model.eval()(**inputs).logits, teacher(**inputs).logits, 3.0).mean()
    assert losses(trainer)[0] == pytest.approx(expected.item(), abs=1e-4)


def test_training_with_soft_labels_equals_training_with_a_live_teacher(build):
    # SGD, because AdamW turns rounding errors of a gradient near 0 into full steps
    live, cached = build(optim="sgd"), build(optim="sgd", cached=True)
    assert cached.teacher is None
    np.testing.assert_allclose(losses(live), losses(cached), atol=1e-5)
    torch.testing.assert_close(weights(live), weights(cached), atol=1e-5, rtol=1e-4)


def test_teacher_is_not_loaded_if_the_data_has_soft_labels(build, tmp_path, teacher, tokenizer, features):
    rows = SoftLabels.compute(teacher, tokenizer, features).attach(features)
    trainer = DistillationTrainer(
        student_of(teacher),
        arguments(tmp_path),
        teacher_model="no/such-model",
        train_dataset=rows,
        processing_class=tokenizer,
    )
    assert trainer.teacher is None


@pytest.mark.parametrize("objectives", [{"logits": 1.0}, {"hard": 1.0}, {"logits": 0.5, "hard": 0.5}])
def test_gradient_accumulation_changes_neither_losses_nor_weights(build, objectives):
    """One batch of eight gives the same weights and logs as four accumulated batches of two."""
    single = build(per_device_train_batch_size=8, objectives=objectives, optim="sgd", num_train_epochs=3)
    accumulated = build(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        objectives=objectives,
        optim="sgd",
        num_train_epochs=3,
    )
    np.testing.assert_allclose(losses(single), losses(accumulated), atol=1e-4)
    torch.testing.assert_close(weights(single), weights(accumulated), atol=1e-6, rtol=1e-5)
    norms = [
        [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        for trainer in (single, accumulated)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-4)


def test_gradient_accumulation_is_exact_for_a_bert_student(build):
    """The Trainer skips the division by the steps if the head accepts loss kwargs, as a BERT head does."""
    single = build(per_device_train_batch_size=8, optim="sgd", model=build_teacher(seed=3))
    accumulated = build(
        per_device_train_batch_size=2, gradient_accumulation_steps=4, optim="sgd", model=build_teacher(seed=3)
    )
    for trainer in (single, accumulated):
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    np.testing.assert_allclose(losses(single), losses(accumulated), atol=1e-4)
    torch.testing.assert_close(weights(single), weights(accumulated), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(build, tmp_path, teacher, strategy):
    """It resumes in the middle of the second epoch, so dropout and the order of examples must be restored."""
    fields = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3, "train_sampling_strategy": strategy}
    uninterrupted = build(model=student_of(teacher, dropout=0.1), **fields)
    losses(uninterrupted)
    resumed = build(model=student_of(teacher, dropout=0.1), **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.global_step == uninterrupted.state.global_step
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)


def test_evaluation_loss_has_the_scale_of_the_training_loss(build):
    trainer = build(objectives={"logits": 0.7, "hard": 0.3}, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    weighted = 0.7 * metrics["eval_loss_logits"] + 0.3 * metrics["eval_loss_hard"]
    assert metrics["eval_loss"] == pytest.approx(weighted, abs=1e-5)
    batch = trainer.data_collator([dict(row) for row in trainer.eval_dataset])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.eval(), batch)
    assert metrics["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [{"logits": 1.0}, {"logits": 0.5, "hidden": 1.0}])
def test_compiled_models_give_the_losses_of_eager_ones(build, objectives):
    """The backend runs the graphs that dynamo captures of student and live teacher, without optimising them."""
    fields = {"objectives": objectives, "num_train_epochs": 3}
    compiled = build(torch_compile=True, torch_compile_backend="eager", **fields)
    assert losses(compiled) == pytest.approx(losses(build(**fields)), rel=1e-5)
    assert compiled.model_wrapped is not compiled.model


def test_objectives_that_need_hooks_are_refused_for_compiled_models(build):
    with pytest.raises(InputError, match=r"torch_compile=True does not work with relations: .* keys, queries, values"):
        build(torch_compile=True, torch_compile_backend="eager", objectives={"logits": 0.5, "relations": 1.0})


def test_agreement_is_logged_in_training_and_exact_in_evaluation(build, teacher, tokenizer):
    trainer = build(eval_strategy="epoch", num_train_epochs=1, per_device_eval_batch_size=3)
    trainer.train()
    training = [entry["agreement"] for entry in trainer.state.log_history if "agreement" in entry]
    assert len(training) == 2
    assert all(share * 4 == round(share * 4) for share in training)  # each is a share of four examples
    same = logits_of_texts(trainer.model, tokenizer).argmax(-1) == logits_of_texts(teacher, tokenizer).argmax(-1)
    evaluation = [entry["eval_agreement"] for entry in trainer.state.log_history if "eval_agreement" in entry]
    assert evaluation == [pytest.approx(same.float().mean().item())]


def test_no_agreement_is_reported_without_the_logits_objective(build):
    assert not [name for name in build(objectives={"hard": 1.0}).evaluate() if "agreement" in name]


def test_a_prediction_does_not_change_the_next_evaluation(build, features):
    trainer = build()
    before = trainer.evaluate()["eval_loss_logits"]
    trainer.predict(features.select(range(3)))
    assert trainer.evaluate()["eval_loss_logits"] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("dropped", ["label", "teacher_logits"])
def test_predicting_without_labels_or_without_teacher_logits_gives_no_loss(build, dropped, features):
    trainer = build(cached=True)
    complete = trainer.predict(trainer.eval_dataset)
    partial = trainer.predict(trainer.eval_dataset.remove_columns(dropped))
    np.testing.assert_allclose(partial.predictions, complete.predictions, atol=1e-6)
    assert "test_loss" not in partial.metrics
    assert (partial.label_ids is None) == (dropped == "label")


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_predictions_are_in_the_order_of_the_data_set(build, strategy, features):
    trainer = build(train_sampling_strategy=strategy, per_device_eval_batch_size=2)
    predicted = trainer.predict(features)
    np.testing.assert_array_equal(predicted.label_ids, LABELS)
    for row, logits in zip(features, predicted.predictions, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            np.testing.assert_allclose(logits, trainer.model(input_ids=ids).logits[0], atol=1e-5)


def test_a_student_with_its_labels_in_another_order_has_the_same_losses(build, teacher, tmp_path, tokenizer, features):
    """Labels are aligned by name, for a live teacher and for soft labels."""
    names = ("positive", "negative")
    swapped = student_of(teacher, label_names=list(names))
    swapped_data = features.map(lambda row: {"label": 1 - row["label"]})
    for cached in (False, True):
        rows = swapped_data
        if cached:
            rows = SoftLabels.compute(teacher, tokenizer, features).attach(swapped_data, names)
        swapped_trainer = DistillationTrainer(
            copy.deepcopy(swapped),
            arguments(tmp_path),
            teacher_model=teacher,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        np.testing.assert_allclose(losses(build(cached=cached)), losses(swapped_trainer), atol=1e-4)


def test_different_label_names_are_refused_with_both_sets(build):
    student = build_teacher(("bad", "good"))
    with pytest.raises(ValueError, match=r"\['negative', 'positive'\].*\['bad', 'good'\].*id2label"):
        build(model=student)


def with_permuted_vocabulary(teacher):
    """Return the same teacher for another order of the vocabulary, and the tokenizer with this order."""
    vocabulary = WORDS[:5] + WORDS[:4:-1]
    permuted = copy.deepcopy(teacher)
    embeddings = permuted.bert.embeddings.word_embeddings.weight.data
    embeddings[:] = teacher.bert.embeddings.word_embeddings.weight.data[[WORDS.index(word) for word in vocabulary]]
    return permuted, build_tokenizer(vocabulary)


def test_a_teacher_with_another_tokenizer_reads_its_own_features(tmp_path, tokenizer, examples):
    """A teacher with permuted token ids gives the losses of the original, live and as soft labels."""
    teacher = build_teacher()
    permuted, permuted_tokenizer = with_permuted_vocabulary(teacher)

    def train(model, teacher_tokenizer, cached):
        rows = tokenize(examples, tokenizer, teacher_tokenizer=teacher_tokenizer)
        if cached:
            soft_labels = SoftLabels.compute(model, teacher_tokenizer, tokenize(examples, teacher_tokenizer))
            rows = soft_labels.attach(rows)
        return losses(
            DistillationTrainer(
                student_of(teacher),
                arguments(tmp_path),
                teacher_model=model,
                teacher_processing_class=teacher_tokenizer,
                train_dataset=rows,
                processing_class=tokenizer,
            )
        )

    reference = train(teacher, tokenizer, cached=False)
    np.testing.assert_allclose(train(permuted, permuted_tokenizer, cached=False), reference, atol=1e-5)
    np.testing.assert_allclose(train(permuted, permuted_tokenizer, cached=True), reference, atol=1e-5)
    with pytest.raises(ValueError, match=r"different tokenizers.*teacher_tokenizer"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path),
            teacher_model=permuted,
            teacher_processing_class=permuted_tokenizer,
            train_dataset=tokenize(examples, tokenizer),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_regression_and_multi_label_students_learn(tmp_path, tokenizer, kind):
    names = () if kind == "regression" else ("x", "y", "z")
    teacher = build_teacher(names, problem_type=kind)
    labels = [0.5] * len(TEXTS) if kind == "regression" else [[1.0, 0.0, 1.0]] * len(TEXTS)
    rows = tokenize(Dataset.from_dict({"text": TEXTS, "label": labels}), tokenizer)
    trainer = DistillationTrainer(
        student_of(teacher), arguments(tmp_path, num_train_epochs=10), teacher_model=teacher,
        train_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    step_losses = losses(trainer)
    assert step_losses[-1] < step_losses[0]


def test_data_without_labels_is_refused_unless_only_the_teacher_is_learned(build, features):
    unlabelled = features.remove_columns("label")
    with pytest.raises(ValueError, match=r"need labels, but the data has only .*objectives=\{\"logits\": 1.0\}"):
        build(data=unlabelled)
    assert len(losses(build(data=unlabelled, objectives={"logits": 1.0}))) == 4


def test_a_missing_teacher_is_refused_only_if_an_objective_needs_one(build, tmp_path, teacher, features, tokenizer):
    with pytest.raises(ValueError, match=r"need a teacher: pass teacher_model, or attach soft labels"):
        DistillationTrainer(
            student_of(teacher), arguments(tmp_path), train_dataset=features, processing_class=tokenizer
        )
    hard_only = arguments(tmp_path, objectives={"hard": 1.0})
    DistillationTrainer(student_of(teacher), hard_only, train_dataset=features, processing_class=tokenizer).train()


def test_plain_training_arguments_are_refused(teacher, tmp_path):
    with pytest.raises(TypeError, match="TrainingArguments; a DistillationTrainer takes DistillationTrainingArguments"):
        DistillationTrainer(
            student_of(teacher), TrainingArguments(str(tmp_path), report_to="none"), teacher_model=teacher
        )


def test_compute_loss_func_is_refused(teacher, tmp_path):
    with pytest.raises(
        ValueError, match=r"compute_loss_func would not be called, because args.objectives define the loss"
    ):
        DistillationTrainer(
            student_of(teacher), arguments(tmp_path), teacher_model=teacher, compute_loss_func=lambda *_: 0.0
        )


def test_training_changes_neither_the_teachers_weights_nor_its_mode(build, teacher):
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    build().train()
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_a_student_that_outputs_hidden_states_predicts_only_logits(build, teacher, features):
    student = student_of(teacher)
    student.config.output_hidden_states = True
    assert build(model=student).predict(features).predictions.shape == (len(TEXTS), 2)


def test_the_saved_student_has_the_weights_and_logits_of_the_trained_one(build, features, tmp_path):
    from transformers import AutoModelForSequenceClassification

    trainer = build()
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(trainer.model.state_dict()), atol=0, rtol=0)
    ids = torch.tensor([features[0]["input_ids"]])
    with torch.no_grad():  # weights that are mapped from a file are aligned differently, so sums may round differently
        torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(ids).logits)


def test_training_on_a_stream_equals_training_on_the_data_set(build, teacher, features, tmp_path):
    """A stream has no length. Grouping by length is not possible for it and is ignored."""
    args = arguments(tmp_path, max_steps=3, train_sampling_strategy="sequential")
    labelled = build(cached=True).train_dataset
    for data in (features, labelled):
        trainer = build(args=args, model=student_of(teacher), data=data)
        stream_trainer = build(args=args, model=student_of(teacher), data=data.to_iterable_dataset())
        stream_losses = losses(stream_trainer)
        assert losses(trainer) == pytest.approx(stream_losses)
        torch.testing.assert_close(weights(trainer), weights(stream_trainer))
    grouped = arguments(tmp_path, max_steps=3, train_sampling_strategy="group_by_length")
    assert losses(build(args=grouped, data=labelled.to_iterable_dataset())) == pytest.approx(stream_losses)


def test_several_teachers_may_have_other_tokenizers_and_label_orders(tmp_path, tokenizer, examples, teacher):
    """Two teachers, one with permuted labels and one with a permuted vocabulary, give the losses of the originals."""
    second = build_teacher(seed=3)
    permuted, permuted_tokenizer = with_permuted_vocabulary(second)
    swapped = student_from_teacher(teacher, label_names=["positive", "negative"])

    def train(teachers, tokenizers):
        trainer = DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path),
            teacher_model=teachers,
            teacher_processing_class=tokenizers,
            teacher_weights=[0.7, 0.3],
            train_dataset=tokenize(examples, tokenizer, teacher_tokenizer=tokenizers),
            processing_class=tokenizer,
        )
        return losses(trainer), trainer

    expected_losses, trainer = train([teacher, second], [tokenizer, tokenizer])
    same_order, _ = train([swapped, permuted], [tokenizer, permuted_tokenizer])
    np.testing.assert_allclose(same_order, expected_losses, atol=1e-4)
    exchanged, _ = train([permuted, swapped], [permuted_tokenizer, tokenizer])
    assert exchanged[0] != pytest.approx(expected_losses[0], abs=1e-3)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    expected = 0.7 * teacher(**inputs).logits + 0.3 * second(**inputs).logits
    torch.testing.assert_close(trainer.teacher(batch).logits, expected.detach())


def test_token_classification_does_not_depend_on_padding_side_or_cache(tmp_path, tagger, tagged):
    """Losses and metrics are the same for left and right padding, with soft labels and with a live teacher."""
    names = label_names(tagger.config)
    results = {}
    metrics = ("loss", "loss_logits", "loss_hard", "agreement", "entity_f1", "accuracy")
    for side in ("right", "left"):
        tokenizer = build_tokenizer(padding_side=side)
        rows = tokenize(tagged, tokenizer)
        teacher = student_from_teacher(tagger)  # not the BERT itself, whose position ids would include left padding
        for cached in (True, False):
            data = SoftLabels.compute(teacher, tokenizer, rows, bf16=False).attach(rows, names) if cached else rows
            trainer = DistillationTrainer(
                model=student_of(teacher),
                args=arguments(tmp_path, per_device_eval_batch_size=3),
                teacher_model=None if cached else teacher,
                train_dataset=data,
                eval_dataset=data,
                processing_class=tokenizer,
                compute_metrics=compute_metrics_for(("entity_f1", "accuracy"), "token_classification", names),
            )
            results[side, cached] = [*losses(trainer), *(trainer.evaluate()[f"eval_{name}"] for name in metrics)]
    expected = results.pop(("right", True))
    assert expected[0] > 0
    for values in results.values():
        np.testing.assert_allclose(values, expected, atol=1e-4)
