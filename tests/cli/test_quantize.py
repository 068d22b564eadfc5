"""`tkd-hf quantize`: it writes a complete folder or none, measures it, and refuses mistakes with one line."""

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, BitsAndBytesConfig

from tkd_hf.commands import quantize as stage
from tkd_hf.core import optional_dependencies
from tkd_hf.records.run_folder import LOCK_NAME

from ..factories import FAST, TEXTS, build_teacher, build_tokenizer, read_json, write_recipe
from .test_run import plan


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The teacher of all tests as ONNX. Exporting takes some seconds and is tested elsewhere, so it is done once."""
    pytest.importorskip("onnxscript")
    from tkd_hf.quantization import onnx

    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.export(build_teacher(), build_tokenizer(), file)
    return file


@pytest.fixture
def exported(graph, monkeypatch):
    monkeypatch.setattr("tkd_hf.quantization.onnx.export", lambda model, tokenizer, file: shutil.copy(graph, file))


@pytest.fixture
def quantize(run, exported, teacher_folder, sst2_dir, tmp_path):
    """Run `tkd-hf quantize` on the teacher; return the exit code, standard output and standard error."""

    def run_quantize(*options, data=("--task", "sst2", "--data-dir", sst2_dir), model=teacher_folder):
        return run("quantize", model, "--backend", "onnx", "--output-dir", tmp_path / "int8", *data, *options)

    return run_quantize


INT8 = {"backend": "onnx", "weights": "int8", "activations": "int8 dynamic"}


@pytest.fixture(scope="module")
def int8(graph, shared):
    """Return a folder with the teacher in int8, and what the command printed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("tkd_hf.quantization.onnx.export", lambda model, tokenizer, file: shutil.copy(graph, file))
        args = ["--backend", "onnx", *shared.data, "--json", shared.path / "q.json"]
        out, err = shared.run("quantize", shared.teacher, *args, "--output-dir", shared.path / "int8")
    return SimpleNamespace(path=shared.path / "int8", out=out, err=err)


def test_quantize_announces_its_work_and_suggests_a_benchmark(int8, shared):
    assert f"quantizing {shared.teacher} into {int8.path} with onnx, int8-dynamic" in int8.err
    assert f"next: tkd-hf benchmark {shared.teacher} {int8.path} --task sst2" in int8.err


def test_quantize_shows_quality_size_and_latency_of_both_models(int8):
    assert [
        column for column in ("accuracy", "agreement", "MB", "p50 ms", "reference", "×") if column not in int8.out
    ] == []


def test_the_record_of_a_quantization_holds_the_measurements(int8, shared):
    record = read_json(int8.path / "tkd_run.json")
    assert record == read_json(shared.path / "q.json")
    assert record["inputs"]["task"] == "sst2"
    assert record["metrics"]["speedup"] > 0
    assert record["metrics"]["megabytes"] == (int8.path / "onnx/model_quantized.onnx").stat().st_size / 1e6
    quantization = record["details"]["quantization"]
    assert {name: quantization[name] for name in INT8} == INT8
    assert quantization["float"]["metrics"]["accuracy"] == 0.5


def test_an_onnx_folder_has_the_layout_that_transformers_js_and_optimum_read(int8):
    files = {path.name for path in int8.path.iterdir()}
    assert {"config.json", "tokenizer.json", "tkd_run.json", "onnx"} == files - {"tokenizer_config.json", LOCK_NAME}
    assert {path.name for path in (int8.path / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    config = AutoConfig.from_pretrained(int8.path)
    assert config.quantization == INT8
    assert config.architectures == ["BertForSequenceClassification"]


def test_evaluate_gives_the_results_that_quantize_recorded(int8, shared):
    shared.run("evaluate", int8.path, *shared.data, "--teacher", shared.teacher, "--json", shared.path / "e.json")
    teacher, model = read_json(shared.path / "e.json")["models"]
    recorded = read_json(int8.path / "tkd_run.json")["metrics"]
    assert (teacher["backend"], model["backend"]) == ("pytorch", "onnx")
    assert model["metrics"]["accuracy"] == recorded["accuracy"]
    assert model["fidelity"]["agreement"] == recorded["agreement"]
    assert model["megabytes"] == recorded["megabytes"]


def test_benchmark_names_the_data_types_of_a_quantized_model(int8, shared, no_processes):
    args = ["--batch-sizes", 1, "--lengths", 8, "--rounds", 2, "--json", shared.path / "b.json"]
    shared.run("benchmark", shared.teacher, int8.path, *args)
    assert "int8" in read_json(shared.path / "b.json")["models"][1]["dtype"]


def test_a_quantized_model_is_not_quantized_again(int8, shared, run, tmp_path):
    code, _, err = run("quantize", int8.path, "--backend", "onnx", "--output-dir", tmp_path / "again")
    assert code == 2
    assert "is already quantized (by onnx); quantize the float model that it was made from, " in err
    assert str(shared.teacher) in err


def test_without_data_size_and_speed_are_measured_and_previous_stages_recorded(quantize, tmp_path):
    (tmp_path / "teacher").mkdir(exist_ok=True)
    previous_stage = {"stage": "distill", "inputs": {"teacher": "org/teacher"}, "arguments": {"layers": 3}}
    previous_stage |= {"finished": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "teacher" / "tkd_run.json").write_text(json.dumps(previous_stage))
    code, out, err = quantize("--weights", "float32", data=())
    assert code == 0, err
    record = read_json(tmp_path / "int8" / "tkd_run.json")
    assert set(record["metrics"]) == {"megabytes", "milliseconds", "speedup", "speedup_interval"}
    assert record["details"]["quantization"]["float"]["metrics"] == {}
    recorded = [{name: stage_record[name] for name in previous_stage} for stage_record in record["before"]]
    assert recorded == [previous_stage]
    assert "agreement" not in out
    assert not (tmp_path / "int8" / "onnx" / "model_quantized.onnx").exists()


def test_finished_run_needs_resume_or_overwrite_and_the_same_arguments(quantize, tmp_path):
    assert quantize("--weights", "float32")[0] == 0
    before = read_json(tmp_path / "int8" / "tkd_run.json")
    code, _, err = quantize("--weights", "float32")
    assert (code, "--resume" in err) == (2, True)
    code, out, _ = quantize("--weights", "float32", "--resume")
    assert (code, "reference" in out) == (0, True)
    assert read_json(tmp_path / "int8" / "tkd_run.json") == before
    code, _, err = quantize("--resume")
    assert (code, "weights was 'float32', now 'int8-dynamic'" in err) == (2, True)
    assert quantize("--overwrite")[0] == 0
    assert read_json(tmp_path / "int8" / "tkd_run.json")["arguments"]["weights"] == "int8-dynamic"


def test_failed_run_leaves_the_previous_folder_or_none(quantize, tmp_path, monkeypatch):
    class Crash(Exception):
        pass

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_measure", crash)
        with pytest.raises(Crash):
            quantize()
    assert not [path for path in tmp_path.iterdir() if "int8" in path.name]
    assert quantize("--weights", "float32")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_measure", crash)
        with pytest.raises(Crash):
            quantize("--overwrite")
    assert [path.name for path in tmp_path.iterdir() if "int8" in path.name] == ["int8"]
    assert read_json(tmp_path / "int8" / "tkd_run.json")["arguments"]["weights"] == "float32"
    (tmp_path / "int8" / ".tkd_run.partial" / "onnx").mkdir(parents=True)  # as a killed run leaves it
    assert quantize("--overwrite")[0] == 0
    assert [path.name for path in tmp_path.iterdir() if "int8" in path.name] == ["int8"]


def test_max_drop_fails_the_command_also_for_a_finished_run(quantize, tmp_path, monkeypatch):
    measure = stage._measure

    def measure_lower_accuracy(*arguments):
        float_results, metrics = measure(*arguments)
        return float_results, metrics | {"accuracy": 0.25}

    monkeypatch.setattr(stage, "_measure", measure_lower_accuracy)
    code, out, err = quantize("--max-drop", 0.1)
    assert code == 1
    assert "missed by 0.1500: accuracy 0.2500 is 0.2500 below the float model (0.5000)" in err
    assert "agreement" in out
    assert quantize("--max-drop", 0.25, "--resume")[0] == 0
    assert quantize("--max-drop", 0.1, "--resume")[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "tflite"], "unknown backend 'tflite'; choose among openvino, onnx, bitsandbytes, quanto"),
        (
            ["--weights", "int2"],
            "no scheme weights='int2'; choose among int8-dynamic, int8-dynamic-int4-embeddings, float32",
        ),
        (["--eval-split", "nowhere"], "no split 'nowhere'"),
    ],
)
def test_mistakes_give_one_line_and_leave_no_folder(quantize, tmp_path, options, message):
    code, out, err = quantize(*options)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "int8").exists()


def test_max_drop_needs_data(quantize):
    code, _, err = quantize("--max-drop", 0.1, data=())
    assert (code, "name the data with --task or --dataset" in err) == (2, True)


@pytest.mark.parametrize(("backend", "package"), [("onnx", "onnxruntime"), ("openvino", "optimum.intel")])
def test_missing_package_of_a_backend_names_the_extra_to_install(
    run, teacher_folder, tmp_path, monkeypatch, backend, package
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(optional_dependencies, "find_spec", lambda name: None if name == package else find_spec(name))
    code, _, err = run("quantize", teacher_folder, "--backend", backend, "--output-dir", tmp_path / "q")
    assert code == 2
    assert f'the backend {backend} needs {package}, which is not installed: pip install "tkd-hf[{backend}]"' in err


def test_static_quantization_needs_data(run, teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tkd_hf.models.backends.import_optional", lambda *_: None)
    options = ["--backend", "openvino", "--weights", "int8-static", "--output-dir", tmp_path / "q"]
    code, _, err = run("quantize", teacher_folder, *options)
    assert code == 2
    assert "int8-static of openvino needs training examples for calibration: name the data (--task)" in err


def test_adapters_and_quantized_models_are_refused(quantize, tmp_path, teacher, teacher_folder, tokenizer):
    get_peft_model(teacher, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])).save_pretrained(
        tmp_path / "lora"
    )
    code, _, err = quantize(model=tmp_path / "lora")
    assert (code, "merge the two first" in err) == (2, True)
    config = AutoConfig.from_pretrained(teacher_folder)
    config.quantization_config = BitsAndBytesConfig(load_in_8bit=True).to_dict()
    config.save_pretrained(tmp_path / "8bit")
    code, _, err = quantize(model=tmp_path / "8bit")
    assert (code, "is already quantized (by bitsandbytes" in err) == (2, True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher_folder / name, tmp_path / "8bit" / name)
    (tmp_path / "8bit" / "model.onnx").touch()
    code, _, err = quantize(model=tmp_path / "8bit")
    assert (code, "holds no PyTorch weights; quantize the float model" in err) == (2, True)


def test_calibration_batches_are_evenly_spaced_single_examples(examples, tagged, tokenizer):
    batches = list(stage.calibration_batches(examples, tokenizer, 4, max_length=5))
    assert [set(batch) for batch in batches] == [{"input_ids", "token_type_ids", "attention_mask"}] * 4
    for text, batch in zip(TEXTS[::2], batches, strict=True):
        assert batch["input_ids"].tolist() == [tokenizer(text, truncation=True, max_length=5)["input_ids"]]
    assert len(list(stage.calibration_batches(tagged, tokenizer, 300))) == len(tagged)


def test_recipe_stages_after_quantization_measure_it_but_change_the_float_model(tmp_path):
    first_stages = [
        {"distill": {"layers": 2}},
        {"quantize": {"backend": "onnx"}},
        {"quantize": {"backend": "openvino"}},
    ]
    stages = [
        *first_stages,
        {"evaluate": None},
        {"prune": {"target_params": 0.5}},
        {"evaluate": None},
        {"benchmark": None},
    ]
    _, first, second, evaluated, pruned, last, compared = plan(tmp_path, stages, teacher="t")
    assert first["model"] == second["model"] == pruned["model"] == "runs/distill"
    assert (first["output_dir"], second["output_dir"]) == ("runs/quantize", "runs/quantize-2")
    assert (evaluated["model"], last["model"]) == ("runs/quantize-2", "runs/prune")
    assert compared["models"] == ["t", "runs/distill", "runs/quantize", "runs/quantize-2", "runs/prune"]
    (alone,) = plan(tmp_path, [{"quantize": {"backend": "onnx"}}], teacher="t")
    assert alone["model"] == "t"


def test_recipe_with_quantization_can_be_run_twice(run, exported, tmp_path, teacher_folder, sst2_dir):
    stages = [{"quantize": {"backend": "onnx"}}, {"evaluate": None}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(tmp_path / "out"))
    for _ in range(2):
        code, _, err = run("run", recipe, "--json", tmp_path / "run.json")
        assert code == 0, err
    quantized, evaluated = read_json(tmp_path / "run.json")["stages"]
    assert quantized["output_dir"] == str(tmp_path / "out" / "quantize")
    assert evaluated["models"][1]["fidelity"]["agreement"] == quantized["metrics"]["agreement"]


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["dynamic", "dynamic-int4-embeddings"])
def test_quantization_aware_student_is_a_float_model_that_can_be_quantized(
    run, teacher_folder, sst2_dir, tmp_path, rounding
):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    for name, aware_options in {"plain": [], "aware": ["--quantization-aware", rounding]}.items():
        options = [*data, "--layers", 2, "--output-dir", tmp_path / name, *FAST.split(), *aware_options]
        code, _, err = run("distill", teacher_folder, *options)
        assert code == 0, err
    assert read_json(tmp_path / "aware" / "tkd_run.json")["arguments"]["quantization_aware"] == rounding
    plain, aware = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "aware"))
    assert plain.keys() == aware.keys()
    assert {weight.dtype for weight in aware.values()} == {torch.float32}
    assert not torch.equal(plain["classifier.weight"], aware["classifier.weight"])
    options = ["--backend", "onnx", "--output-dir", tmp_path / "int8"]
    assert run("quantize", tmp_path / "aware", *data, *options)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--quantization-aware", "int3"],
            "unknown quantization_aware='int3'; choose one of weights, dynamic, dynamic-int4-embeddings, static",
        ),
        (["--quantization-aware", "static", "--lora"], "quantization_aware rounds the weights that lora keeps frozen"),
    ],
)
def test_invalid_quantization_aware_options_are_refused(run, teacher_folder, sst2_dir, tmp_path, options, message):
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "student"]
    code, _, err = run("distill", teacher_folder, *data, *options)
    assert (code, message in err) == (2, True)
