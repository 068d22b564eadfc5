"""A client process: run the commands and Python code that arrive as lines of JSON, and report their output as JSON."""

import importlib.abc
import json
import logging
import os
import resource
import runpy  # noqa: F401 - available to the code that is sent
import sys
import tempfile
import time
import traceback


class Hidden(importlib.abc.MetaPathFinder):
    """Hide the package, as if it were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tkd_hf":
            raise ModuleNotFoundError("tkd_hf is not installed here")


def main(results):
    if os.environ.get("TKD_HF_HIDDEN"):
        sys.meta_path.insert(0, Hidden())
    pause = time.sleep
    time.sleep = lambda seconds: pause(min(seconds, 0.01))  # shorten the waiting time before huggingface_hub retries
    for line in sys.stdin:
        results.write(json.dumps(handle(json.loads(line))) + "\n")
        results.flush()
    os._exit(0)  # a regular exit takes seconds because of torch


def handle(request: dict) -> dict:
    os.environ.pop("HF_TOKEN", None)
    if request["token"]:
        os.environ["HF_TOKEN"] = request["token"]
    logging.getLogger().handlers.clear()  # they hold the previous standard error
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        for stream, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), stream)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if request["fsize"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], limits[1]))
            code = execute(request)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            sys.stdout.flush()
            sys.stderr.flush()
        out.seek(0)
        err.seek(0)
        return {"code": code, "out": out.read(), "err": err.read()}


def execute(request: dict) -> int:
    try:
        if "code" in request:
            exec(request["code"], {"__name__": "__main__"})
            return 0
        from tkd_hf.cli import main as command

        sys.argv = ["tkd-hf", *request["argv"]]
        command()
    except SystemExit as exit_:
        return exit_.code or 0
    except BaseException:
        traceback.print_exc()
        return -1
    return 0


if __name__ == "__main__":
    main(os.fdopen(os.dup(1), "w"))
