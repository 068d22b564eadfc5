"""What several seeds gave: mean and standard deviation, in records and in tables."""

from statistics import mean, stdev


def spread(values: list[float]) -> dict:
    """Mean and standard deviation; one value alone has none."""
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "values": values}


def spread_of_teachers(values: list[float]) -> dict:
    """As `spread`, of the teachers that seeds may share: one for all of them has none."""
    return spread(list(dict.fromkeys(values)))


def written(values: dict, form: str) -> str:
    """`mean ± sd`, both as the format says."""
    return f"{values['mean']:{form}}" + (f" ± {values['sd']:{form}}" if values["sd"] is not None else "")
