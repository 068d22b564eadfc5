"""The tests of the installed transformers as an importable package: `from transformers_tests.test_… import …`.

Importing this module fetches them if they are not in the cache (see fetch.py). The tests import three helper modules
that the source distribution does not carry; they are stood in for here.
"""

import sys
from types import ModuleType

from fetch import fetch


__path__ = [str(fetch())]  # makes this module the package that the fetched files import each other from


def _stand_in(name: str, **contents: object) -> None:
    module = ModuleType(f"{__name__}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module


# Base classes of ModelTesterMixin or named by it, empty here: text generation is not what our models do, and the tests
# of upstream's exporters are not in the archive.
_stand_in("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
_stand_in("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))

# What every configuration accepts, each with a value that is not its default: ConfigTester passes these in and
# expects them to arrive. It wants the dtype given by name and found as torch.float16.
_stand_in(
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
