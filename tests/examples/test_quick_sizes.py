"""Examples that are scripts and no more, run whole on a handful of texts."""

import json
import sys

import pytest

import benchmark_spread
import hub_transcript
import quantization
import sst2
from tests.conftest import build_teacher, build_tokenizer, read_json, write_task
from tests.examples.test_recipes import TRAINING
from tests.hub.runs import distilled, run_folder
from tests.training import student_of
from tkd_hf.data.loading import DataArguments
from tkd_hf.stages.evaluate import evaluate
from tkd_hf.stages.run_folder import write_record


def saved(model, folder) -> str:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def test_sst2(tmp_path, monkeypatch):
    monkeypatch.setattr(sst2, "COMMON", TRAINING | {"save_strategy": "no"})
    write_task(tmp_path / "data", "sst2")
    encoder = saved(build_teacher(layers=6), tmp_path / "encoder")
    words = ["--encoder", encoder, "--data-dir", tmp_path / "data", "--output-dir", tmp_path, "--results-dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["sst2.py", *map(str, words), "--seeds", "0", "1"])
    sst2.main()
    rows = read_json(tmp_path / "sst2.json")["rows"]
    assert [row["model"] for row in rows] == ["teacher", "student, seed 0", "student, seed 1"]
    assert f"| student, seed 1 | {rows[2]['accuracy']:.4f} | " in (tmp_path / "sst2.md").read_text()


@pytest.mark.slow
def test_quantization(tmp_path, monkeypatch, no_processes):
    """Of a recipe that has been run, every scheme of a backend; another that is not there is passed over."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quantization, "SHAPES", ((1, 8), (2, 8)))
    monkeypatch.setattr(quantization, "STUDENTS", ("prune",))
    write_task(tmp_path / "data", "sst2")
    teacher = build_teacher()
    saved(teacher, tmp_path / "runs" / "tkd-nlp-sst2" / "finetune")
    for stage in quantization.STUDENTS:
        saved(student_of(teacher), tmp_path / "runs" / "tkd-nlp-sst2" / stage)
    backends = quantization.load_backend
    monkeypatch.setattr(quantization, "load_backend", lambda name: backends(name) if name == "onnx" else absent(name))
    quantization.main(
        ["tkd-nlp-sst2", "--data-dir", "data", "--backends", "onnx", "quanto", "--results-dir", ".", "--rounds", "1"]
    )
    found = read_json(tmp_path / "quantization-sst2.json")
    assert found["command"] == "python examples/quantization.py tkd-nlp-sst2 --data-dir DATA --rounds 1"
    names = [row["model"] for row in found["rows"]]
    assert names[:2] == ["teacher, float32", "3 layers, fewer tokens, float32"]
    assert names[2:5] == [f"teacher, onnx {one}" for one in ("int8-dynamic", "int8-dynamic-int4-embeddings", "float32")]
    assert len(names) == 8
    page = (tmp_path / "quantization-sst2.md").read_text()
    assert "# SST-2, quantized" in page
    assert "quanto was passed over: no quanto here" in page
    assert (tmp_path / "quantization-sst2.png").exists()


def absent(name: str):
    raise ImportError(f"no {name} here")


def test_the_spread_of_benchmarks(tmp_path, monkeypatch):
    """Of three runs with medians of 10, 12 and 11 ms beside 5, 5 and 4: 2/11 and 1/5, of their ratios 0.75/2.4."""
    monkeypatch.setattr(benchmark_spread, "RESULTS", tmp_path)
    about = {"texts": "real", "tokens": 9.5, "software": {"torch": "2", "transformers": "5"}}
    about["hardware"] = {"threads": 1, "cores": 2, "cpu": "A CPU"}
    for place, (slow, fast) in enumerate(((10, 5), (12, 5), (11, 4))):
        timings = [
            {"batch_size": 1, "length": 32, "rounds": 9, "p50": p50, "speedup": slow / p50} for p50 in (slow, fast)
        ]
        models = [{"name": f"runs/{name}", "timings": [one]} for name, one in zip("ab", timings, strict=True)]
        (tmp_path / f"{place}.json").write_text(json.dumps(about | {"models": models}))
    benchmark_spread.main([str(tmp_path / f"{place}.json") for place in range(3)])
    (shape,) = read_json(tmp_path / "benchmark.json")["shapes"]
    assert shape["spread_of_p50"] == pytest.approx(1 / 5)
    assert shape["spread_of_ratio"] == pytest.approx(0.75 / 2.4)
    assert "| 1 × 32 | 10.00, 12.00, 11.00 | 5.00, 5.00, 4.00 | 20.0% |" in (tmp_path / "benchmark.md").read_text()


@pytest.mark.slow
def test_the_transcript_of_the_hub(tmp_path, monkeypatch):
    """Pushed, loaded where the package is not, verified, altered, and verified again: as the page says it."""
    monkeypatch.setattr(hub_transcript, "RESULT", tmp_path / "transcript.md")
    write_task(tmp_path / "data", "sst2")
    run = run_folder(tmp_path / "run", None)
    data = DataArguments(task="sst2", data_dir=str(tmp_path / "data"))
    write_record(run, distilled(metrics=evaluate(str(run), data).models[0].metrics))
    hub_transcript.main(run, "sst2", tmp_path / "data")
    page = (tmp_path / "transcript.md").read_text()
    assert page.count("```console") == 7
    assert str(tmp_path) not in page
