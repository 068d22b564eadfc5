"""Make the tests of the installed transformers importable: `from transformers_tests.test_… import …`.

Importing this module downloads them if they are not in the cache (see fetch.py). They import three helper modules that
the source distribution lacks; substitutes for them are defined here.
"""

import sys
from types import ModuleType

from fetch import fetch


__path__ = [str(fetch())]  # makes this module a package, from which the downloaded files import each other


def _add_module(name: str, **contents: object) -> None:
    module = ModuleType(f"{__name__}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module


# Base classes that ModelTesterMixin uses. They are empty here: TKD does not generate text, and the archive lacks the
# tests of the exporters.
_add_module("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
_add_module("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))

# Fields of every configuration, each with a value other than its default. ConfigTester passes them and expects to read
# them back; it passes the dtype by name and expects torch.float16.
_add_module(
    "utils.test_configuration_utils",
    config_common_kwargs={
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
        "dtype": "float16",
        "chunk_size_feed_forward": 5,
        "architectures": ["SomeModel"],
        "id2label": {0: "no", 1: "yes", 2: "maybe"},
        "label2id": {"no": 0, "yes": 1, "maybe": 2},
        "problem_type": "multi_label_classification",
    },
)
