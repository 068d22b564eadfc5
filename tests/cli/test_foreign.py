"""Models, links and recipes of strangers: none runs code, is a pickle that is read, or reaches out of its folder."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tkd_hf import InputError
from tkd_hf.adapters import merge_adapter
from tkd_hf.cli.recipe import Recipe
from tkd_hf.hub.folder import publishable_files
from tkd_hf.stages.run_folder import read_record

from ..conftest import FAST


class Mark:
    """Pickled, it leaves a file where it is loaded."""

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
    "code beside what is known": (model_code, None),
    "a tokenizer with code": (tokenizer_code, None),
    "a kernel": (kernel, "requests the attention kernel 'some/kernel', which is code from another repository"),
    "weights above": (shards("../outside.safetensors"), "names the weights '../outside.safetensors'"),
    "weights that are a pickle": (shards("other.pt"), "names the weights 'other.pt'; only safetensors in its own"),
}


@pytest.mark.parametrize("command", ["evaluate", "distill", "finetune"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_strangers(run, tmp_path, teacher_folder, sst2_dir, name, command):
    """What is known is loaded without the code beside it; the rest is refused in one line."""
    prepare, message = MODELS[name]
    folder = shutil.copytree(teacher_folder, tmp_path / "foreign")
    prepare(folder, tmp_path / "mark")
    words = {"evaluate": [], "distill": ["--layers", 2]}.get(command, [])
    training = [] if command == "evaluate" else ["--output-dir", tmp_path / "out", *FAST.split()]
    code, out, err = run(command, folder, "--task", "sst2", "--data-dir", sst2_dir, *words, *training)
    assert not (tmp_path / "mark").exists()
    if message is None:
        assert code == 0, err
    else:
        assert (code, out) == (2, "")
        assert message in err.strip().splitlines()[-1]


@pytest.mark.parametrize("place", ["adapter", "base"])
def test_an_adapter_of_a_stranger(tmp_path, teacher_folder, place):
    """Neither it nor the base that it names may be a pickle, wherever that lies."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    content = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
    content["base_model_name_or_path"] = str(adapter / ".." / "teacher")
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    if place == "adapter":
        (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Mark(tmp_path / "mark")))
    else:
        pickled(teacher_folder, tmp_path / "mark")
    with pytest.raises(InputError, match=r"model\.bin is a pickle"):
        merge_adapter(adapter, tmp_path / "merged")
    assert not (tmp_path / "mark").exists()


def test_links_out_of_a_folder_are_not_published(tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md is a link to .*secret, outside the folder"):
        publishable_files(tmp_path / "run")


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"])
def test_recipes_that_would_run_code(run, tmp_path, tag):
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
def test_recipes_that_unfold_without_end(run, tmp_path, name):
    """As the "billion laughs" do."""
    content, message = BOMBS[name]
    (tmp_path / "recipe.yaml").write_text(content)
    code, out, err = run("run", tmp_path / "recipe.yaml")
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]


def test_aliases_of_use(tmp_path):
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
def test_records_of_strangers(tmp_path, change):
    """All commands that read records do it by this function."""
    (tmp_path / "tkd_run.json").write_text(json.dumps(GOOD | {"before": [GOOD]}))
    assert read_record(tmp_path).before == [GOOD]
    (tmp_path / "tkd_run.json").write_text(change if isinstance(change, str) else json.dumps(GOOD | change))
    with pytest.raises(InputError, match=r"tkd_run\.json is damaged \("):
        read_record(tmp_path)
