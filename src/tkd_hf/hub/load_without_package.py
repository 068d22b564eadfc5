"""Print the logits of a model that is loaded as a user without tkd-hf would load it, with `trust_remote_code=True`.

`tkd_hf.hub.verify` runs this file as a program of its own. It reads a JSON object from standard input and prints the
logits of each text as the last line of its output. tkd-hf cannot be imported in it, even where it is installed.
"""

import importlib.abc
import json
import sys
from typing import Any


class HidePackage(importlib.abc.MetaPathFinder):
    """Make every import of tkd_hf fail, as if it were not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Raise the error of a missing package for tkd_hf; leave all other modules to the other finders."""
        if fullname.split(".")[0] == "tkd_hf":
            raise ModuleNotFoundError("tkd_hf is not installed here")


def compute_logits(request: dict[str, Any]) -> list[Any]:
    """Load a model, and return its logits for each text, which is a batch of one.

    Args:
        request: `repo_id`, `commit` and `auto_class` of the model; `base` and `base_commit` of the base model, if it is
            an adapter; and `texts`, a list of texts or pairs of texts, each as a list of strings.
    """
    import torch  # not before tkd_hf is hidden: transformers imports plugins
    import transformers

    options = {"revision": request["commit"], "trust_remote_code": True}
    repo_id, model_class = request["repo_id"], getattr(transformers, request["auto_class"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id, **options)
    if request.get("base"):
        from peft import PeftModel

        # The base may have another head. Its configuration is that of the adapter's folder, which names the labels.
        base_model = model_class.from_pretrained(
            request["base"],
            revision=request["base_commit"],
            trust_remote_code=True,
            config=transformers.AutoConfig.from_pretrained(repo_id, **options),
            ignore_mismatched_sizes=True,
        )
        model = PeftModel.from_pretrained(base_model, repo_id, revision=request["commit"]).eval()
    else:
        model = model_class.from_pretrained(repo_id, **options).eval()
    with torch.no_grad():
        return [
            model(**tokenizer(*text, truncation=True, return_tensors="pt")).logits.tolist() for text in request["texts"]
        ]


if __name__ == "__main__":
    sys.meta_path.insert(0, HidePackage())
    print(json.dumps(compute_logits(json.load(sys.stdin))))
