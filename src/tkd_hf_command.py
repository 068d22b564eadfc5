"""The program `tkd-hf`.

`tkd_hf` registers TKD with transformers when it is imported, except if this module has been imported before: then it
waits until a command needs a model, so that `tkd-hf --help` is quick.
"""

from tkd_hf.cli import main


__all__ = ["main"]
