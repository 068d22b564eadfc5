"""Models beside one another: what is measured of each, and whether it is recorded how."""

import json

import pytest
import torch

from tkd_hf import student_from_teacher
from tkd_hf.data.loading import DataArguments
from tkd_hf.errors import InputError
from tkd_hf.evaluation.memory import Footprint
from tkd_hf.stages import benchmark as stage
from tkd_hf.stages.benchmark import SENTENCES, benchmark


SMALL = {"batch_sizes": (1, 2), "lengths": (4, 8), "rounds": 3}


@pytest.fixture
def measured(monkeypatch):
    """Which models got a process of their own."""
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


def test_each_model_has_all_its_figures(measured, teacher_folder, student_folder):
    names = [str(teacher_folder), str(student_folder)]
    result = benchmark(names, **SMALL)
    assert [model.name for model in result.models] == names
    assert (result.reference, result.texts) == (names[0], "built-in sentences")
    teacher, student = result.models
    assert teacher.parameters.embeddings == student.parameters.embeddings
    assert teacher.parameters.encoder > student.parameters.encoder
    assert teacher.megabytes > student.megabytes > 0
    assert (student.backend, student.device, student.dtype) == ("pytorch", "cpu", "float32")
    assert student.footprint.peak_megabytes == 150
    assert student.tokenization > 0
    shapes = [(size, length) for size in (1, 2) for length in (None, 4, 8)]
    assert [(timing.batch_size, timing.length) for timing in student.timings] == shapes
    assert all(0 < timing.p50 <= timing.p95 and timing.rounds == 3 for timing in student.timings)
    assert all(timing.speedup == 1 for timing in teacher.timings)
    assert student.timing(2, 8) is student.timings[-1]
    assert json.loads(json.dumps(result.to_dict()))["models"][1]["timings"][0]["speedup"] == student.timing(1).speedup


def test_threads_are_set_for_all_and_given_back(measured, monkeypatch, teacher_folder):
    before = torch.get_num_threads()
    seen = []
    load = stage.load_runner
    monkeypatch.setattr(stage, "load_runner", lambda *words: seen.append(torch.get_num_threads()) or load(*words))
    result = benchmark([str(teacher_folder)], threads=before + 1, **SMALL)
    assert result.hardware["threads"] == before + 1
    assert seen == [before + 1]
    assert measured == [(str(teacher_folder), 2, 8, before + 1)]
    assert torch.get_num_threads() == before
    assert benchmark([str(teacher_folder)], **SMALL).hardware["threads"] == before


def test_a_model_named_several_times_has_several_rows(measured, teacher_folder):
    name = str(teacher_folder)
    result = benchmark([name] * 3, **SMALL)
    assert [model.name for model in result.models] == [name, f"{name} (2)", f"{name} (3)"]
    assert result.models[2].timing(1).interval != (1, 1)


def test_a_reference_may_be_among_the_models_or_not(measured, teacher_folder, student_folder):
    teacher, student = str(teacher_folder), str(student_folder)
    among = benchmark([teacher, student], reference=student, **SMALL)
    assert [model.name for model in among.models] == [teacher, student]
    assert (among.reference, among.models[1].timing(1).speedup) == (student, 1)
    apart = benchmark([student], reference=teacher, **SMALL)
    assert [model.name for model in apart.models] == [teacher, student]
    assert apart.reference == teacher


def test_real_texts_are_those_of_the_evaluation_split(measured, monkeypatch, teacher_folder, sst2_dir):
    seen = []
    batch = stage.text_batch
    monkeypatch.setattr(stage, "text_batch", lambda runner, texts, cut: seen.append(texts) or batch(runner, texts, cut))
    data = DataArguments("sst2", data_dir=str(sst2_dir))
    result = benchmark([str(teacher_folder)], data, **{**SMALL, "rounds": 9})
    assert result.texts == "sst2"
    assert seen[:9] == [[("good film",)], *seen[1:8], [("good film",)]]  # after the eighth, the first again
    assert seen[9] == [("good film",), ("bad film",)]
    assert result.tokens == (4 + 4 + 6 + 3 + 4 + 3 + 9 + 3) / 8


def test_slow_shapes_get_fewer_rounds(measured, teacher_folder):
    result = benchmark([str(teacher_folder)], patience=0, **{**SMALL, "rounds": 50})
    assert {timing.rounds for timing in result.models[0].timings} == {1}


def test_texts_are_cut_at_what_every_model_reads(measured, tmp_path, tokenizer):
    from ..conftest import build_teacher

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
        ([], {}, "no models to benchmark"),
        (["{teacher}"], {"batch_sizes": (0, 1)}, r"batch_sizes=\[0, 1\]: numbers from 1 up are wanted"),
        (["{teacher}"], {"lengths": ()}, r"lengths=\[\]"),
        (["{teacher}"], {"threads": 0}, r"threads=\[0\]"),
        (["{teacher}"], {"rounds": 0}, r"rounds=\[0\]"),
        (["{teacher}"], {"lengths": (8, 33)}, "lengths go up to 33 tokens, but .*teacher reads at most 32"),
        (["{teacher}", "no/such"], {}, "'no/such' is neither a folder"),
        (["{teacher}"], {"reference": "no/such"}, "'no/such' is neither a folder"),
    ],
)
def test_bad_input_is_named(measured, teacher_folder, models, options, message):
    with pytest.raises(InputError, match=message):
        benchmark([name.format(teacher=teacher_folder) for name in models], **{**SMALL, **options})
