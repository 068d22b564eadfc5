"""Untrusted models, links, recipes and records run no code and leave their folder alone; tokens stay secret."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tkd_hf import InputError
from tkd_hf.cli.recipe import Recipe
from tkd_hf.hub.folder import publishable_files
from tkd_hf.models.lora import merge_adapter
from tkd_hf.records.run_folder import read_record

from ..factories import FAST


class Mark:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def code(mark, name: str, base: str) -> str:
    return f"from transformers import *\nopen({str(mark)!r}, 'w')\nclass {name}({base}):\n    model_type = 'foreign'\n"


def changed(folder, name="config.json", **fields):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pickled(folder, mark):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mark(mark)))


def harmless_pickle(folder, mark):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def own_code(folder, mark):
    (folder / "foreign.py").write_text(code(mark, "Config", "BertConfig"))
    changed(folder, model_type="foreign", auto_map={"AutoConfig": "foreign.Config"})


def code_above(folder, mark):
    (folder.parent / "foreign.py").write_text(code(mark, "Config", "BertConfig"))
    changed(folder, model_type="foreign", auto_map={"AutoConfig": "../foreign.Config"})


def code_elsewhere(folder, mark):
    changed(folder, model_type="foreign", auto_map={"AutoConfig": "some/one--foreign.Config"})


def model_code(folder, mark):
    (folder / "foreign.py").write_text(code(mark, "Model", "BertForSequenceClassification"))
    changed(folder, auto_map={"AutoModelForSequenceClassification": "foreign.Model"})


def tokenizer_code(folder, mark):
    (folder / "foreign.py").write_text(code(mark, "Words", "PreTrainedTokenizerFast"))
    changed(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["foreign.Words", "foreign.Words"]})


def kernel(folder, mark):
    changed(folder, _attn_implementation="some/kernel", attn_implementation="some/kernel")


def shards(name):
    def move(folder, mark):
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "other.pt").write_bytes(pickle.dumps(Mark(mark)))
        content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return move


NO_CODE = (
    "contains custom code, which the commands never run; review it, load the model in Python with "
    "trust_remote_code=True"
)
MODELS = {
    "a pickle": (pickled, "pytorch_model.bin is a pickle, which may run code when it is loaded"),
    "a harmless pickle": (harmless_pickle, "pytorch_model.bin is a pickle, which may run code when it is loaded"),
    "code of its own": (own_code, NO_CODE),
    "code of the folder above": (code_above, NO_CODE),
    "code of another repository": (code_elsewhere, NO_CODE),
    "code beside a known type": (model_code, None),
    "a tokenizer with code": (tokenizer_code, None),
    "a kernel": (kernel, "requests the attention kernel 'some/kernel', which is code from another repository"),
    "weights above": (shards("../outside.safetensors"), "names the weights '../outside.safetensors'"),
    "weights that are a pickle": (shards("other.pt"), "names the weights 'other.pt'; only safetensors in its own"),
}


@pytest.mark.parametrize("command", ["evaluate", "distill", "finetune"])
@pytest.mark.parametrize("name", MODELS)
def test_untrusted_models_run_no_code_and_are_refused_unless_of_a_known_type(
    run, tmp_path, teacher_folder, sst2_dir, name, command
):
    """A model of a known type is loaded without its custom code; all others are refused in one line."""
    prepare, message = MODELS[name]
    folder = shutil.copytree(teacher_folder, tmp_path / "foreign")
    prepare(folder, tmp_path / "mark")
    args = {"evaluate": [], "distill": ["--layers", 2]}.get(command, [])
    training = [] if command == "evaluate" else ["--output-dir", tmp_path / "out", *FAST.split()]
    code, out, err = run(command, folder, "--task", "sst2", "--data-dir", sst2_dir, *args, *training)
    assert not (tmp_path / "mark").exists()
    if message is None:
        assert code == 0, err
    else:
        assert (code, out) == (2, "")
        assert message in err.strip().splitlines()[-1]


@pytest.mark.parametrize("part", ["adapter", "base"])
def test_an_untrusted_adapter_and_its_base_must_not_be_pickles(tmp_path, teacher_folder, part):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    content = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
    content["base_model_name_or_path"] = str(adapter / ".." / "teacher")
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    if part == "adapter":
        (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Mark(tmp_path / "mark")))
    else:
        pickled(teacher_folder, tmp_path / "mark")
    with pytest.raises(InputError, match=r"model\.bin is a pickle"):
        merge_adapter(adapter, tmp_path / "merged")
    assert not (tmp_path / "mark").exists()


def test_links_are_not_published(tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md is a link to .*secret; copy"):
        publishable_files(tmp_path / "run")


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"])
def test_recipes_with_python_tags_are_refused_without_running_them(run, tmp_path, tag):
    (tmp_path / "recipe.yaml").write_text(f"stages: !!{tag} ['{tmp_path / 'mark'}']\n")
    code, out, err = run("run", tmp_path / "recipe.yaml")
    assert (code, out) == (2, "")
    assert "recipe.yaml cannot be read: could not determine a constructor for the tag" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "mark").exists()


BOMB = f"[&a0 [x, x], {', '.join(f'&a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 40))}]"
BOMBS = {
    "data": (f"data: {BOMB}", "expands into more than 10000 values"),
    "a stage": (f"stages: [distill: {{objectives: {BOMB}}}]", "expands into more than 10000 values"),
    "itself": ("stages: &a [*a]", "expands into more than 10000 values"),
    "depth": ("stages: " + "[" * 2000 + "]" * 2000, "cannot be read: maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_recipes_that_expand_without_end_are_refused(run, tmp_path, name):
    """The "billion laughs" attack, by YAML aliases."""
    content, message = BOMBS[name]
    (tmp_path / "recipe.yaml").write_text(content)
    code, out, err = run("run", tmp_path / "recipe.yaml")
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]


def test_recipes_may_use_aliases(tmp_path):
    text = "stages: [distill: &fast {use_cpu: true, layers: 2}, finetune: {<<: *fast, layers: 3}]"
    (tmp_path / "recipe.yaml").write_text(text)
    assert Recipe.read(tmp_path / "recipe.yaml").stages[1] == ("finetune", {"use_cpu": True, "layers": 3})


GOOD = {"stage": "distill", "inputs": {"teacher": "t", "task": "sst2"}, "arguments": {}}
RECORDS = [
    *("[]", "null", "{}", "[" * 100_000, '{"stage"'),
    *({"stage": 3}, {"inputs": []}, {"inputs": None}, {"arguments": 1}, {"details": []}, {"hardware": "x"}),
    *({"metrics": [1]}, {"metrics": {"accuracy": "high"}}, {"seconds": "x"}, {"finished": 3}, {"surprise": 1}),
    *({"before": "x"}, {"before": [1]}, {"before": [{}]}, {"before": [GOOD | {"inputs": 3}]}),
    *({"inputs": {"teacher": 3}}, {"inputs": {"teacher": ["t", 3]}}, {"inputs": {"teacher": {"a": "b"}}}),
    *({"inputs": {"task": 7}}, {"arguments": {"student": 7}}),
]


@pytest.mark.parametrize("change", RECORDS, ids=lambda change: str(change)[:30])
def test_damaged_records_are_refused(tmp_path, change):
    """All commands read records with this function."""
    (tmp_path / "tkd_run.json").write_text(json.dumps(GOOD | {"before": [GOOD]}))
    assert read_record(tmp_path).before == [GOOD]
    (tmp_path / "tkd_run.json").write_text(change if isinstance(change, str) else json.dumps(GOOD | change))
    with pytest.raises(InputError, match=r"tkd_run\.json is damaged \("):
        read_record(tmp_path)


# A token in the environment of every command, which must not appear in any output.
CANARY = "hf_CanaryCanaryCanaryCanaryCanary"


@pytest.mark.slow
def test_no_command_writes_or_prints_the_token(run, teacher_folder, sst2_dir, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", CANARY)
    out = tmp_path / "out"
    steps = [*FAST.removesuffix(" --save-strategy no").split(), "--save-strategy", "steps", "--save-steps", 1]
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    teacher, student = out / "teacher", out / "student"
    report = out / "report"
    measured = ["--rounds", 2, "--batch-sizes", 1, "--lengths", 8]
    target = ["--teacher", teacher, "--target-params", 0.95]
    commands = (
        ["finetune", teacher_folder, *data, *steps, "--output-dir", teacher],
        ["label", teacher, *data],
        ["distill", teacher, *data, *steps, "--layers", 2, "--output-dir", student],
        ["prune", student, *data, *steps, *target, "--output-dir", out / "pruned"],
        ["quantize", student, "--backend", "bitsandbytes", *data, "--output-dir", out / "int8"],
        ["evaluate", student, "--teacher", teacher, *data, "--json", out / "evaluate.json"],
        ["benchmark", teacher, student, *measured, "--json", out / "b.json"],
        ["report", student, "--teacher", teacher, *data, *measured, "--output-dir", report],
        ["card", student, "--report", report, "--license", "mit"],
        ["push", student, "--repo-id", "org/name", "--dry-run"],
    )
    failing_commands = (
        ["push", student, "--repo-id", "org/name"],
        ["verify", "org/name"],
        ["evaluate", "org/name", *data],
    )
    output = caplog.text
    for args in commands:
        code, printed, err = run(*args)
        assert code == 0, err
        output += printed + err
    for args in failing_commands:  # tests have no network
        code, printed, err = run(*args)
        assert code == 2, err
        output += printed + err
    assert CANARY not in output + caplog.text
    written = [path for path in tmp_path.parent.rglob("*") if path.is_file()]
    names = {"model.safetensors", "README.md", "tkd_run.json", "report.md", "optimizer.pt", "evaluate.json"}
    assert names <= {path.name for path in written}
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
