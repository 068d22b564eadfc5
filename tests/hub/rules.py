"""What the Hub refuses of a card, and leaves out of a commit."""

from fnmatch import fnmatch


RELATIONS = {"adapter", "merge", "quantized", "finetune"}


def ignores(pattern: str, path: str) -> bool:
    """Whether a line of a .gitignore, without its finer points, is about a path."""
    if pattern.endswith("/"):
        return f"/{path}".startswith(pattern)
    return fnmatch(f"/{path}", pattern) if pattern.startswith("/") else fnmatch(path.rpartition("/")[2], pattern)


def wrong_metadata(content: dict):
    """What the Hub would refuse of a card's metadata, as far as this project writes any."""
    for name in ("tags", "datasets", "metrics"):
        if not isinstance(content.get(name, []), list):
            yield f'"{name}" must be an array'
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(content.get(name, ""), str):
            yield f'"{name}" must be a string'
    if content.get("base_model_relation", "finetune") not in RELATIONS:
        yield f'"base_model_relation" must be one of {sorted(RELATIONS)}'
    for model in content.get("model-index", []):
        for result in model["results"] if "name" in model else [{}]:
            if not {"type", "name"} <= set(result.get("dataset", {})) or "task" not in result:
                yield '"model-index" needs a name, and of each result task and dataset'
