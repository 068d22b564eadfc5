"""The trainer: the same loss however it is computed, and everything else as a Trainer user knows it."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from tkd_hf import DistillationTrainer, InputError, SoftLabels, student_from_teacher
from tkd_hf.data.features import tokenize
from tkd_hf.evaluation.metrics import compute_metrics_for
from tkd_hf.labels import label_names
from tkd_hf.objectives.divergences import categorical_divergence
from tkd_hf.sampling import EpochLengthGroupedSampler

from .conftest import LABELS, TEXTS, WORDS, build_teacher, build_tokenizer
from .training import arguments, logits_of_texts, losses, student_of, weights


def test_the_loss_is_the_weighted_sum_of_its_logged_components(build):
    trainer = build(objectives={"logits": 0.7, "hard": 0.3})
    losses(trainer)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.7 * entry["loss_logits"] + 0.3 * entry["loss_hard"], abs=1e-4)


def test_the_first_loss_is_the_reference_divergence(build, teacher, features, tokenizer):
    trainer = build(objectives={"logits": 1.0}, temperature=3.0, per_device_train_batch_size=8)
    batch = trainer.data_collator([dict(row) for row in features])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        expected = categorical_divergence(trainer.model.eval()(**inputs).logits, teacher(**inputs).logits, 3.0).mean()
    assert losses(trainer)[0] == pytest.approx(expected.item(), abs=1e-4)


def test_cached_and_live_training_are_the_same(build):
    # SGD, for AdamW turns rounding in a gradient near 0 into whole steps
    live, cached = build(optim="sgd"), build(optim="sgd", cached=True)
    assert cached.teacher is None
    np.testing.assert_allclose(losses(live), losses(cached), atol=1e-5)
    torch.testing.assert_close(weights(live), weights(cached), atol=1e-5, rtol=1e-4)


def test_soft_labels_in_the_data_keep_the_teacher_from_being_loaded(build, tmp_path, teacher, tokenizer, features):
    labelled = SoftLabels.compute(teacher, tokenizer, features).attach(features)
    trainer = DistillationTrainer(
        student_of(teacher),
        arguments(tmp_path),
        teacher_model="no/such-model",
        train_dataset=labelled,
        processing_class=tokenizer,
    )
    assert trainer.teacher is None


@pytest.mark.parametrize("objectives", [{"logits": 1.0}, {"hard": 1.0}, {"logits": 0.5, "hard": 0.5}])
def test_accumulation_changes_neither_loss_nor_gradient(build, objectives):
    """One batch of eight is four of two: the weights agree after the same number of steps, and so do the logs."""
    whole = build(per_device_train_batch_size=8, objectives=objectives, optim="sgd", num_train_epochs=3)
    parts = build(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        objectives=objectives,
        optim="sgd",
        num_train_epochs=3,
    )
    np.testing.assert_allclose(losses(whole), losses(parts), atol=1e-4)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in (whole, parts)]
    np.testing.assert_allclose(*norms, rtol=1e-4)


def test_a_stock_student_accumulates_the_same(build):
    """A head that takes loss kwargs makes the Trainer skip the division; the trainer must not rely on its own model."""
    whole = build(per_device_train_batch_size=8, optim="sgd", model=build_teacher(seed=3))
    parts = build(
        per_device_train_batch_size=2, gradient_accumulation_steps=4, optim="sgd", model=build_teacher(seed=3)
    )
    for trainer in (whole, parts):
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    np.testing.assert_allclose(losses(whole), losses(parts), atol=1e-4)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_resumed_is_uninterrupted(build, tmp_path, teacher, strategy):
    """From the middle of the second epoch, dropout and order of examples included."""
    fields = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 3, "train_sampling_strategy": strategy}
    whole = build(model=student_of(teacher, dropout=0.1), **fields)
    losses(whole)
    again = build(model=student_of(teacher, dropout=0.1), **fields)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert again.state.global_step == whole.state.global_step
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)


def test_evaluation_is_on_the_scale_of_training(build):
    trainer = build(objectives={"logits": 0.7, "hard": 0.3}, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    weighted = 0.7 * metrics["eval_loss_logits"] + 0.3 * metrics["eval_loss_hard"]
    assert metrics["eval_loss"] == pytest.approx(weighted, abs=1e-5)
    batch = trainer.data_collator([dict(row) for row in trainer.eval_dataset])
    with torch.no_grad():
        whole = trainer.compute_loss(trainer.model.eval(), batch)
    assert metrics["eval_loss"] == pytest.approx(whole.item(), abs=1e-5)


@pytest.mark.parametrize("objectives", [{"logits": 1.0}, {"logits": 0.5, "hidden": 1.0}])
def test_compiled_is_eager(build, objectives):
    """The graph as dynamo takes it, run as it is: the live teacher's, too."""
    fields = {"objectives": objectives, "num_train_epochs": 3}
    compiled = build(torch_compile=True, torch_compile_backend="eager", **fields)
    assert losses(compiled) == pytest.approx(losses(build(**fields)), rel=1e-5)
    assert compiled.model_wrapped is not compiled.model


def test_what_hooks_read_is_not_compiled(build):
    with pytest.raises(InputError, match="torch_compile=True, and relations read keys, queries, values by hooks"):
        build(torch_compile=True, torch_compile_backend="eager", objectives={"logits": 0.5, "relations": 1.0})


def test_agreement_with_the_teacher_is_logged_and_measured(build, teacher, tokenizer):
    trainer = build(eval_strategy="epoch", num_train_epochs=1, per_device_eval_batch_size=3)
    trainer.train()
    during = [entry["agreement"] for entry in trainer.state.log_history if "agreement" in entry]
    assert len(during) == 2
    assert all(share * 4 == round(share * 4) for share in during)  # of four examples each
    expected = logits_of_texts(trainer.model, tokenizer).argmax(-1) == logits_of_texts(teacher, tokenizer).argmax(-1)
    evaluated = [entry["eval_agreement"] for entry in trainer.state.log_history if "eval_agreement" in entry]
    assert evaluated == [pytest.approx(expected.float().mean().item())]


def test_without_logits_among_the_objectives_there_is_no_agreement(build):
    assert not [name for name in build(objectives={"hard": 1.0}).evaluate() if "agreement" in name]


def test_evaluation_counts_are_not_left_over_from_a_prediction(build, features):
    trainer = build()
    alone = trainer.evaluate()["eval_loss_logits"]
    trainer.predict(features.select(range(3)))
    assert trainer.evaluate()["eval_loss_logits"] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("dropped", ["label", "teacher_logits"])
def test_evaluation_without_labels_or_without_teacher_has_no_loss(build, dropped, features):
    trainer = build(cached=True)
    full = trainer.predict(trainer.eval_dataset)
    part = trainer.predict(trainer.eval_dataset.remove_columns(dropped))
    np.testing.assert_allclose(part.predictions, full.predictions, atol=1e-6)
    assert "test_loss" not in part.metrics
    assert (part.label_ids is None) == (dropped == "label")


def test_grouping_by_length_shuffles_each_epoch_and_misses_nothing():
    lengths = [i % 7 + 1 for i in range(500)]
    sampler = EpochLengthGroupedSampler(4, lengths, seed=0)
    first, again = list(sampler), []
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    again = list(sampler)
    assert first == again != second
    assert sorted(first) == sorted(second) == list(range(500))


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_predictions_stay_in_the_order_of_the_data(build, strategy, features):
    trainer = build(train_sampling_strategy=strategy, per_device_eval_batch_size=2)
    predicted = trainer.predict(features)
    np.testing.assert_array_equal(predicted.label_ids, LABELS)
    for row, logits in zip(features, predicted.predictions, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            np.testing.assert_allclose(logits, trainer.model(input_ids=ids).logits[0], atol=1e-5)


def test_labels_are_aligned_by_name(build, teacher, tmp_path, tokenizer, features):
    """A student whose classes stand in the other order is the same student."""
    swapped = student_of(teacher, label_names=["positive", "negative"])
    data = features.map(lambda row: {"label": 1 - row["label"]})
    for cached in (False, True):
        straight = build(cached=cached)
        names = ("positive", "negative")
        rows = SoftLabels.compute(teacher, tokenizer, features).attach(data, names) if cached else data
        other = DistillationTrainer(
            copy.deepcopy(swapped),
            arguments(tmp_path),
            teacher_model=teacher,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        np.testing.assert_allclose(losses(straight), losses(other), atol=1e-4)


def test_labels_that_do_not_match_are_an_error_with_both_sets(build):
    student = build_teacher(("bad", "good"))
    with pytest.raises(ValueError, match=r"\['negative', 'positive'\].*\['bad', 'good'\].*id2label"):
        build(model=student)


def permuted(teacher):
    """The same teacher reading another permutation of the words, and its tokenizer."""
    words = WORDS[:5] + WORDS[:4:-1]
    other = copy.deepcopy(teacher)
    table = other.bert.embeddings.word_embeddings.weight.data
    table[:] = teacher.bert.embeddings.word_embeddings.weight.data[[WORDS.index(word) for word in words]]
    return other, build_tokenizer(words)


def test_a_teacher_with_another_tokenizer(tmp_path, tokenizer, examples):
    """The teacher's ids are another permutation of the words: with its own features it answers as ever."""
    teacher = build_teacher()
    foreign, other = permuted(teacher)

    def train(model, its_tokenizer, cached):
        rows = tokenize(examples, tokenizer, teacher_tokenizer=its_tokenizer)
        if cached:
            soft = SoftLabels.compute(model, its_tokenizer, tokenize(examples, its_tokenizer))
            rows = soft.attach(rows)
        return losses(
            DistillationTrainer(
                student_of(teacher),
                arguments(tmp_path),
                teacher_model=model,
                teacher_processing_class=its_tokenizer,
                train_dataset=rows,
                processing_class=tokenizer,
            )
        )

    reference = train(teacher, tokenizer, cached=False)
    np.testing.assert_allclose(train(foreign, other, cached=False), reference, atol=1e-5)
    np.testing.assert_allclose(train(foreign, other, cached=True), reference, atol=1e-5)
    with pytest.raises(ValueError, match=r"different tokenizers.*teacher_tokenizer"):
        DistillationTrainer(
            student_of(teacher),
            arguments(tmp_path),
            teacher_model=foreign,
            teacher_processing_class=other,
            train_dataset=tokenize(examples, tokenizer),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_other_problem_types_train(tmp_path, tokenizer, kind):
    names = () if kind == "regression" else ("x", "y", "z")
    teacher = build_teacher(names, problem_type=kind)
    labels = [0.5] * len(TEXTS) if kind == "regression" else [[1.0, 0.0, 1.0]] * len(TEXTS)
    rows = tokenize(Dataset.from_dict({"text": TEXTS, "label": labels}), tokenizer)
    trainer = DistillationTrainer(
        student_of(teacher), arguments(tmp_path, num_train_epochs=10), teacher_model=teacher,
        train_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    found = losses(trainer)
    assert found[-1] < found[0]


def test_unlabelled_data_trains_on_the_teacher_alone(build, features):
    unlabelled = features.remove_columns("label")
    with pytest.raises(ValueError, match=r"need labels, but the data has only .*objectives=\{\"logits\": 1.0\}"):
        build(data=unlabelled)
    assert len(losses(build(data=unlabelled, objectives={"logits": 1.0}))) == 4


def test_without_a_teacher_the_way_out_is_named(build, tmp_path, teacher, features, tokenizer):
    with pytest.raises(ValueError, match=r"need a teacher: pass teacher_model, or attach soft labels"):
        DistillationTrainer(
            student_of(teacher), arguments(tmp_path), train_dataset=features, processing_class=tokenizer
        )
    plain = arguments(tmp_path, objectives={"hard": 1.0})
    DistillationTrainer(student_of(teacher), plain, train_dataset=features, processing_class=tokenizer).train()


def test_plain_training_arguments_are_refused(teacher, tmp_path):
    with pytest.raises(TypeError, match="TrainingArguments; a DistillationTrainer takes DistillationTrainingArguments"):
        DistillationTrainer(
            student_of(teacher), TrainingArguments(str(tmp_path), report_to="none"), teacher_model=teacher
        )


def test_a_loss_function_of_ones_own_is_refused_rather_than_ignored(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"compute_loss_func would not be called: the loss is that of args.objectives"):
        DistillationTrainer(
            student_of(teacher), arguments(tmp_path), teacher_model=teacher, compute_loss_func=lambda *_: 0.0
        )


def test_the_teacher_is_left_as_it_was(build, teacher):
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    build().train()
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_a_student_that_outputs_hidden_states_still_predicts_logits(build, teacher, features):
    student = student_of(teacher)
    student.config.output_hidden_states = True
    assert build(model=student).predict(features).predictions.shape == (len(TEXTS), 2)


def test_the_saved_student_is_the_trained_one(build, features, tmp_path):
    from transformers import AutoModelForSequenceClassification

    trainer = build()
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(trainer.model.state_dict()), atol=0, rtol=0)
    ids = torch.tensor([features[0]["input_ids"]])
    with torch.no_grad():  # weights mapped from a file lie elsewhere, and sums may round otherwise
        torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(ids).logits)


def test_a_stream_is_learned_from_as_the_data_set_is(build, teacher, features, tmp_path):
    """With a live teacher and with soft labels: neither wants the length of the data."""
    args = arguments(tmp_path, max_steps=3, train_sampling_strategy="sequential")
    labelled = build(cached=True).train_dataset
    for data in (features, labelled):
        ends = []
        for rows in (data, data.to_iterable_dataset()):
            trainer = build(args=args, model=student_of(teacher), data=rows)
            ends.append((losses(trainer), weights(trainer)))
        assert ends[0][0] == pytest.approx(ends[1][0])
        torch.testing.assert_close(ends[0][1], ends[1][1])
    grouped = arguments(tmp_path, max_steps=3, train_sampling_strategy="group_by_length")  # of a stream, nothing is
    assert losses(build(args=grouped, data=labelled.to_iterable_dataset())) == pytest.approx(ends[1][0])


def test_several_teachers_each_with_its_own_tokenizer_and_order_of_labels(tmp_path, tokenizer, examples, teacher):
    """Two teachers in other guises give what the two of them give as they are."""
    second = build_teacher(seed=3)
    foreign, its_tokenizer = permuted(second)
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

    plain, trainer = train([teacher, second], [tokenizer, tokenizer])
    np.testing.assert_allclose(train([swapped, foreign], [tokenizer, its_tokenizer])[0], plain, atol=1e-4)
    assert train([foreign, swapped], [its_tokenizer, tokenizer])[0][0] != pytest.approx(plain[0], abs=1e-3)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    expected = 0.7 * teacher(**inputs).logits + 0.3 * second(**inputs).logits
    torch.testing.assert_close(trainer.teacher(batch).logits, expected.detach())


def test_tokens_cached_or_live_padded_left_or_right(tmp_path, tagger, tagged):
    """One loss in four ways, gradients and metrics included."""
    names, found = label_names(tagger.config), {}
    measured = ("loss", "loss_logits", "loss_hard", "agreement", "entity_f1", "accuracy")
    for side in ("right", "left"):
        tokenizer = build_tokenizer(padding_side=side)
        rows = tokenize(tagged, tokenizer)
        teacher = student_from_teacher(tagger)  # a BERT counts positions from the padding
        for cached in (True, False):
            soft = SoftLabels.compute(teacher, tokenizer, rows, bf16=False).attach(rows, names) if cached else rows
            trainer = DistillationTrainer(
                model=student_of(teacher),
                args=arguments(tmp_path, per_device_eval_batch_size=3),
                teacher_model=None if cached else teacher,
                train_dataset=soft,
                eval_dataset=soft,
                processing_class=tokenizer,
                compute_metrics=compute_metrics_for(("entity_f1", "accuracy"), "token_classification", names),
            )
            found[side, cached] = [*losses(trainer), *(trainer.evaluate()[f"eval_{name}"] for name in measured)]
    expected = found.pop(("right", True))
    assert expected[0] > 0
    for values in found.values():
        np.testing.assert_allclose(values, expected, atol=1e-4)
