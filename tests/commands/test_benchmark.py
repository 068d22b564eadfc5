"""The benchmark: which measurements each model gets, and on which texts, shapes and threads."""

import json

import pytest
import torch

from tkd_hf import student_from_teacher
from tkd_hf.commands import benchmark as stage
from tkd_hf.commands.benchmark import SENTENCES, benchmark
from tkd_hf.core.errors import InputError
from tkd_hf.data.arguments import DataArguments
from tkd_hf.inference.memory import Footprint


SMALL = {"batch_sizes": (1, 2), "lengths": (4, 8), "rounds": 3}


@pytest.fixture
def footprint_calls(monkeypatch):
    """Replace the measurement of memory, and record its calls with the number of threads."""
    calls = []

    def measure_footprint(*arguments):
        calls.append((*arguments, torch.get_num_threads()))
        return Footprint(1.0, 100.0, 150.0)

    monkeypatch.setattr(stage, "measure_footprint", measure_footprint)
    return calls


@pytest.fixture
def student_folder(tmp_path, teacher, tokenizer):
    student_from_teacher(teacher, num_hidden_layers=1).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def result(footprint_calls, teacher_folder, student_folder):
    return benchmark([str(teacher_folder), str(student_folder)], **SMALL)


def test_models_are_compared_with_the_first_one_on_built_in_sentences(result, teacher_folder, student_folder):
    assert [model.name for model in result.models] == [str(teacher_folder), str(student_folder)]
    assert (result.reference, result.texts) == (str(teacher_folder), "built-in sentences")
    assert all(timing.speedup == 1 for timing in result.models[0].timings)


def test_a_smaller_model_has_fewer_parameters_and_megabytes(result):
    teacher, student = result.models
    assert teacher.parameters.embeddings == student.parameters.embeddings
    assert teacher.parameters.encoder > student.parameters.encoder
    assert teacher.megabytes > student.megabytes > 0


def test_every_model_gets_memory_tokenization_and_its_backend(result):
    student = result.models[1]
    assert (student.backend, student.device, student.dtype) == ("pytorch", "cpu", "float32")
    assert student.footprint.peak_megabytes == 150
    assert student.tokenization > 0


def test_every_model_is_timed_with_each_shape(result):
    student = result.models[1]
    shapes = [(size, length) for size in (1, 2) for length in (None, 4, 8)]
    assert [(timing.batch_size, timing.length) for timing in student.timings] == shapes
    assert all(0 < timing.p50 <= timing.p95 and timing.rounds == 3 for timing in student.timings)
    assert student.timing(2, 8) is student.timings[-1]


def test_the_result_of_a_benchmark_becomes_json(result):
    content = json.loads(json.dumps(result.to_dict()))
    assert content["models"][1]["timings"][0]["speedup"] == result.models[1].timing(1).speedup


def test_number_of_threads_applies_to_all_models_and_is_restored(footprint_calls, monkeypatch, teacher_folder):
    before = torch.get_num_threads()
    seen = []
    load = stage.load_runner
    monkeypatch.setattr(stage, "load_runner", lambda *args: seen.append(torch.get_num_threads()) or load(*args))
    result = benchmark([str(teacher_folder)], threads=before + 1, **SMALL)
    assert result.hardware["threads"] == before + 1
    assert seen == [before + 1]
    assert footprint_calls == [(str(teacher_folder), 2, 8, None, None, before + 1)]
    assert torch.get_num_threads() == before
    assert benchmark([str(teacher_folder)], **SMALL).hardware["threads"] == before


def test_model_that_is_named_several_times_gets_numbered_rows(footprint_calls, teacher_folder):
    name = str(teacher_folder)
    result = benchmark([name] * 3, **SMALL)
    assert [model.name for model in result.models] == [name, f"{name} (2)", f"{name} (3)"]
    assert result.models[2].timing(1).interval != (1, 1)


def test_reference_is_added_if_it_is_not_among_the_models(footprint_calls, teacher_folder, student_folder):
    teacher, student = str(teacher_folder), str(student_folder)
    with_reference = benchmark([teacher, student], reference=student, **SMALL)
    assert [model.name for model in with_reference.models] == [teacher, student]
    assert (with_reference.reference, with_reference.models[1].timing(1).speedup) == (student, 1)
    added_reference = benchmark([student], reference=teacher, **SMALL)
    assert [model.name for model in added_reference.models] == [teacher, student]
    assert added_reference.reference == teacher


def test_real_texts_come_from_the_evaluation_split_and_repeat(footprint_calls, monkeypatch, teacher_folder, sst2_dir):
    seen = []
    batch = stage.text_batch
    monkeypatch.setattr(stage, "text_batch", lambda runner, texts, cut: seen.append(texts) or batch(runner, texts, cut))
    data = DataArguments("sst2", data_dir=str(sst2_dir))
    result = benchmark([str(teacher_folder)], data, **{**SMALL, "rounds": 9})
    assert result.texts == "sst2"
    assert seen[:9] == [[("good film",)], *seen[1:8], [("good film",)]]  # the first text follows the eighth, the last
    assert seen[9] == [("good film",), ("bad film",)]
    assert result.tokens == (4 + 4 + 6 + 3 + 4 + 3 + 9 + 3) / 8


def test_shapes_that_exceed_the_time_limit_get_fewer_rounds(footprint_calls, teacher_folder):
    result = benchmark([str(teacher_folder)], patience=0, **{**SMALL, "rounds": 50})
    assert {timing.rounds for timing in result.models[0].timings} == {1}


def test_texts_are_truncated_to_the_shortest_limit_of_all_models(footprint_calls, tmp_path, tokenizer):
    from ..factories import build_teacher

    model = build_teacher()
    model.config.max_position_embeddings = 12
    short = type(model)(model.config)
    short.save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    assert max(len(sentence.split()) for sentence in SENTENCES) > 12
    assert benchmark([str(tmp_path / "short")], **SMALL).tokens <= 12


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "name at least one model to benchmark"),
        (["{teacher}"], {"batch_sizes": (0, 1)}, r"batch_sizes=\[0, 1\]: use numbers of at least 1"),
        (["{teacher}"], {"lengths": ()}, r"lengths=\[\]"),
        (["{teacher}"], {"threads": 0}, r"threads=\[0\]"),
        (["{teacher}"], {"rounds": 0}, r"rounds=\[0\]"),
        (["{teacher}"], {"lengths": (8, 33)}, "lengths go up to 33 tokens, but .*teacher reads at most 32"),
        (["{teacher}", "no/such"], {}, "'no/such' is neither a folder"),
        (["{teacher}"], {"reference": "no/such"}, "'no/such' is neither a folder"),
    ],
)
def test_invalid_arguments_are_named(footprint_calls, teacher_folder, models, options, message):
    with pytest.raises(InputError, match=message):
        benchmark([name.format(teacher=teacher_folder) for name in models], **{**SMALL, **options})
