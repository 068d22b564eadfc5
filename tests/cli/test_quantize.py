"""`tkd-hf quantize`: a folder that loads and says what it is, or nothing; and one clear line for what is wrong."""

import importlib.util
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, BitsAndBytesConfig

from tkd_hf import optional_dependencies
from tkd_hf.stages import quantize as stage

from ..conftest import FAST, TEXTS, build_teacher, build_tokenizer, read_json
from .recipes import write_recipe
from .test_run import plan


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The teacher of all tests as ONNX: exporting takes some seconds, and is tested elsewhere."""
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
    """Runs `tkd-hf quantize` on the teacher; gives the exit code, standard output and error."""

    def call(*words, data=("--task", "sst2", "--data-dir", sst2_dir), model=teacher_folder):
        return run("quantize", model, "--backend", "onnx", "--output-dir", tmp_path / "int8", *data, *words)

    return call


def test_onnx(quantize, run, tmp_path, teacher_folder, sst2_dir):
    """The folder is what transformers.js and optimum read, and what the other commands take."""
    code, out, err = quantize("--json", tmp_path / "q.json")
    assert code == 0, err
    assert f"quantizing {teacher_folder} into {tmp_path / 'int8'} with onnx, int8-dynamic" in err
    assert f"next: tkd-hf benchmark {teacher_folder} {tmp_path / 'int8'} --task sst2" in err
    for shown in ("accuracy", "agreement", "MB", "p50 ms", "reference", "×"):
        assert shown in out
    record = read_json(tmp_path / "q.json")
    assert record == read_json(tmp_path / "int8" / "tkd_run.json")
    assert record["inputs"]["task"] == "sst2"
    assert record["metrics"]["speedup"] > 0
    found = record["details"]["quantization"]
    assert {name: found[name] for name in ("backend", "weights", "activations")} == {
        "backend": "onnx",
        "weights": "int8",
        "activations": "int8 dynamic",
    }
    assert found["float"]["metrics"]["accuracy"] == 0.5
    assert record["metrics"]["megabytes"] == (tmp_path / "int8/onnx/model_quantized.onnx").stat().st_size / 1e6

    files = {path.name for path in (tmp_path / "int8").iterdir()}
    assert {"config.json", "tokenizer.json", "tkd_run.json", "onnx"} == files - {"tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "int8" / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    config = AutoConfig.from_pretrained(tmp_path / "int8")
    assert config.quantization == {"backend": "onnx", "weights": "int8", "activations": "int8 dynamic"}
    assert config.architectures == ["BertForSequenceClassification"]

    data = ["--task", "sst2", "--data-dir", sst2_dir]
    words = [tmp_path / "int8", *data, "--teacher", teacher_folder, "--json", tmp_path / "e.json"]
    assert run("evaluate", *words)[0] == 0
    teacher, model = read_json(tmp_path / "e.json")["models"]
    assert (teacher["backend"], model["backend"]) == ("pytorch", "onnx")
    assert model["metrics"]["accuracy"] == record["metrics"]["accuracy"]
    assert model["fidelity"]["agreement"] == record["metrics"]["agreement"]
    assert model["megabytes"] == record["metrics"]["megabytes"]
    words = ["--batch-sizes", 1, "--lengths", 8, "--rounds", 2, "--json", tmp_path / "b.json"]
    assert run("benchmark", teacher_folder, tmp_path / "int8", *words)[0] == 0
    assert "int8" in read_json(tmp_path / "b.json")["models"][1]["dtype"]

    code, _, err = quantize("--overwrite", model=tmp_path / "int8")
    assert code == 2
    assert "is quantized already (by onnx); quantize the model in floats that it was made from, " in err
    assert str(teacher_folder) in err


def test_without_data(quantize, tmp_path):
    """Size and speed all the same; and the record of how the model was made is kept."""
    (tmp_path / "teacher").mkdir(exist_ok=True)
    made = {"stage": "distill", "inputs": {"teacher": "org/teacher"}, "arguments": {"layers": 3}}
    made |= {"finished": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "teacher" / "tkd_run.json").write_text(stage.json.dumps(made))
    code, out, err = quantize("--weights", "float32", data=())
    assert code == 0, err
    record = read_json(tmp_path / "int8" / "tkd_run.json")
    assert set(record["metrics"]) == {"megabytes", "milliseconds", "speedup", "speedup_interval"}
    assert record["details"]["quantization"]["float"]["metrics"] == {}
    assert [{name: before[name] for name in made} for before in record["before"]] == [made]
    assert "agreement" not in out
    assert not (tmp_path / "int8" / "onnx" / "model_quantized.onnx").exists()


def test_a_finished_run_is_kept(quantize, tmp_path):
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


def test_what_fails_leaves_what_was_there(quantize, tmp_path, monkeypatch):
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
    (tmp_path / ".int8.partial" / "onnx").mkdir(parents=True)  # as one that was killed leaves it
    assert quantize("--overwrite")[0] == 0
    assert [path.name for path in tmp_path.iterdir() if "int8" in path.name] == ["int8"]


def test_the_gate(quantize, tmp_path, monkeypatch):
    measure = stage._measure

    def worse(*arguments):
        floats, metrics = measure(*arguments)
        return floats, metrics | {"accuracy": 0.25}

    monkeypatch.setattr(stage, "_measure", worse)
    code, out, err = quantize("--max-drop", 0.1)
    assert code == 1
    assert "missed by 0.1500: accuracy 0.2500 is 0.2500 below the model in floats (0.5000)" in err
    assert "agreement" in out
    assert quantize("--max-drop", 0.25, "--resume")[0] == 0
    assert quantize("--max-drop", 0.1, "--resume")[0] == 1  # a run that is done passes no more than before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "tflite"], "unknown backend 'tflite'; there are openvino, onnx, bitsandbytes, quanto"),
        (
            ["--weights", "int2"],
            "no scheme weights='int2'; there are int8-dynamic, int8-dynamic-int4-embeddings, float32",
        ),
        (["--eval-split", "nowhere"], "no split 'nowhere'"),
    ],
)
def test_mistakes_cost_nothing(quantize, tmp_path, words, message):
    code, out, err = quantize(*words)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "int8").exists()


def test_a_gate_without_data(quantize):
    code, _, err = quantize("--max-drop", 0.1, data=())
    assert (code, "--max-drop 0.1 is the largest allowed drop below the float model: name the data" in err) == (2, True)


@pytest.mark.parametrize(("backend", "package"), [("onnx", "onnxruntime"), ("openvino", "optimum.intel")])
def test_a_missing_backend_says_how_to_install_it(run, teacher_folder, tmp_path, monkeypatch, backend, package):
    there = importlib.util.find_spec
    monkeypatch.setattr(optional_dependencies, "find_spec", lambda name: None if name == package else there(name))
    code, _, err = run("quantize", teacher_folder, "--backend", backend, "--output-dir", tmp_path / "q")
    assert code == 2
    assert f'the backend {backend} needs {package}, which is not installed: pip install "tkd-hf[{backend}]"' in err


def test_static_quantization_needs_data(run, teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tkd_hf.quantization.import_optional", lambda *_: None)
    words = ["--backend", "openvino", "--weights", "int8-static", "--output-dir", tmp_path / "q"]
    code, _, err = run("quantize", teacher_folder, *words)
    assert (code, "int8-static of openvino are calibrated on training examples: name the data" in err) == (2, True)


def test_adapters_and_models_that_are_quantized_are_refused(quantize, tmp_path, teacher, teacher_folder, tokenizer):
    get_peft_model(teacher, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])).save_pretrained(
        tmp_path / "lora"
    )
    code, _, err = quantize(model=tmp_path / "lora")
    assert (code, "merge the two first" in err) == (2, True)
    config = AutoConfig.from_pretrained(teacher_folder)
    config.quantization_config = BitsAndBytesConfig(load_in_8bit=True).to_dict()
    config.save_pretrained(tmp_path / "8bit")
    code, _, err = quantize(model=tmp_path / "8bit")
    assert (code, "is quantized already (by bitsandbytes" in err) == (2, True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher_folder / name, tmp_path / "8bit" / name)
    (tmp_path / "8bit" / "model.onnx").touch()
    code, _, err = quantize(model=tmp_path / "8bit")
    assert (code, "holds no PyTorch weights; quantize the model in floats" in err) == (2, True)


def test_examples_to_calibrate_on(examples, tagged, tokenizer):
    """From all over the data, one by one, as the model reads them."""
    batches = list(stage.calibration_batches(examples, tokenizer, 4, max_length=5))
    assert [set(batch) for batch in batches] == [{"input_ids", "token_type_ids", "attention_mask"}] * 4
    for text, batch in zip(TEXTS[::2], batches, strict=True):
        assert batch["input_ids"].tolist() == [tokenizer(text, truncation=True, max_length=5)["input_ids"]]
    assert len(list(stage.calibration_batches(tagged, tokenizer, 300))) == len(tagged)


def test_what_a_recipe_goes_on_with(tmp_path):
    """Quantized models are measured; what is made next is made of the model in floats."""
    making = [{"distill": {"layers": 2}}, {"quantize": {"backend": "onnx"}}, {"quantize": {"backend": "openvino"}}]
    stages = [*making, {"evaluate": None}, {"prune": {"target_params": 0.5}}, {"evaluate": None}, {"benchmark": None}]
    _, first, second, evaluated, pruned, last, compared = plan(tmp_path, stages, teacher="t")
    assert first["model"] == second["model"] == pruned["model"] == "runs/distill"
    assert (first["output_dir"], second["output_dir"]) == ("runs/quantize", "runs/quantize-2")
    assert (evaluated["model"], last["model"]) == ("runs/quantize-2", "runs/prune")
    assert compared["models"] == ["t", "runs/distill", "runs/quantize", "runs/quantize-2", "runs/prune"]
    (alone,) = plan(tmp_path, [{"quantize": {"backend": "onnx"}}], teacher="t")
    assert alone["model"] == "t"


def test_a_stage_of_a_recipe(run, exported, tmp_path, teacher_folder, sst2_dir):
    stages = [{"quantize": {"backend": "onnx"}}, {"evaluate": None}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(tmp_path / "out"))
    for _ in range(2):
        code, _, err = run("run", recipe, "--json", tmp_path / "run.json")
        assert code == 0, err
    made, evaluated = read_json(tmp_path / "run.json")["stages"]
    assert made["output_dir"] == str(tmp_path / "out" / "quantize")
    assert evaluated["models"][1]["fidelity"]["agreement"] == made["metrics"]["agreement"]


@pytest.mark.parametrize("rounding", ["dynamic", "dynamic-int4-embeddings"])
def test_a_student_that_learns_to_be_int8(run, teacher_folder, sst2_dir, tmp_path, rounding):
    """What is left is in floats, other weights than without, and ready to be quantized."""
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    for name, words in {"plain": [], "aware": ["--quantization-aware", rounding]}.items():
        words = [*data, "--layers", 2, "--output-dir", tmp_path / name, *FAST.split(), *words]
        code, _, err = run("distill", teacher_folder, *words)
        assert code == 0, err
    assert read_json(tmp_path / "aware" / "tkd_run.json")["arguments"]["quantization_aware"] == rounding
    plain, aware = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "aware"))
    assert plain.keys() == aware.keys()
    assert {weight.dtype for weight in aware.values()} == {torch.float32}
    assert not torch.equal(plain["classifier.weight"], aware["classifier.weight"])
    words = ["--backend", "onnx", "--output-dir", tmp_path / "int8"]
    assert run("quantize", tmp_path / "aware", *data, *words)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--quantization-aware", "int3"],
            "unknown quantization_aware='int3'; choose one of weights, dynamic, dynamic-int4-embeddings, static",
        ),
        (["--quantization-aware", "static", "--lora"], "quantization_aware rounds the weights that lora keeps frozen"),
    ],
)
def test_what_cannot_be_learned(run, teacher_folder, sst2_dir, tmp_path, words, message):
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "student"]
    code, _, err = run("distill", teacher_folder, *data, *words)
    assert (code, message in err) == (2, True)
