"""Columns of data sets: types that mean the same become one type, and gaps are refused."""

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value, concatenate_datasets

from ..core.errors import InputError


LISTS = (List, LargeList)
STRINGS = ("string", "large_string")
_PLAIN = re.compile("string|large_string|bool|u?int|float|null")  # types whose values arrow can tell apart
_DECIMAL = re.compile(r"decimal[0-9]+\([0-9]+, (-?[0-9]+)\)")


def plain_columns(rows: Dataset, columns: Iterable[str]) -> Dataset:
    """Convert columns that hold texts, numbers or lists of them in a type of their own.

    Bytes and views of strings become strings; decimals become integers if they have no decimal places, and floats
    otherwise; large lists become lists. This is how SQL, Spark and polars write what others call strings and numbers.

    Raises:
        InputError: for bytes that are not UTF-8.
    """
    for column in columns:
        feature = rows.features.get(column)
        plain = _plain_feature(feature)
        if feature is not None and plain != feature:
            try:
                values = [_plain_value(value, plain) for value in rows[column][:]]
            except UnicodeDecodeError as error:
                raise InputError(f"column {column!r} holds bytes that are no UTF-8 text ({error.reason})") from error
            order, new = rows.column_names, Dataset.from_dict({column: values}, features=Features({column: plain}))
            others = rows.remove_columns(column)
            rows = concatenate_datasets([others, new], axis=1).select_columns(order) if others.column_names else new
    return rows


def _plain_feature(feature: Any) -> Any:
    if isinstance(feature, LISTS):
        return List(_plain_feature(feature.feature))
    if not isinstance(feature, Value):
        return feature
    if feature.dtype == "string_view" or "binary" in feature.dtype:
        return Value("string")
    if match := _DECIMAL.fullmatch(feature.dtype):
        return Value("float64" if int(match[1]) > 0 else "int64")
    return feature


def _plain_value(value: Any, feature: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(element, feature.feature) for element in value]
    if isinstance(value, Decimal):
        return int(value) if feature.dtype == "int64" else float(value)
    return value.decode() if isinstance(value, bytes) else value


def check_no_gaps(rows: Dataset, column: str, subject: str, kind: str) -> None:
    """Refuse entries that are missing, and numbers that are not finite.

    Args:
        rows, column: the column to check. Of lists, every element counts.
        subject, kind: the column and its entries, for the message: `"column 'text'"` and `"empty texts"`.

    Raises:
        InputError: with the number of such rows and the first of them.
    """
    feature = rows.features[column]
    is_plain = isinstance(feature, ClassLabel) or (isinstance(feature, Value) and _PLAIN.match(feature.dtype))
    if is_plain and not any(map(_is_gap, rows.unique(column))):
        return
    values = rows[column][:]
    gaps = [index for index, value in enumerate(values, start=1) if _is_gap(value)]
    if gaps:
        shown = ", ".join(map(str, gaps[:5])) + (", …" if len(gaps) > 5 else "")
        example = values[gaps[0] - 1]
        kind = f"scores that are not finite ({example})" if isinstance(example, float) else kind
        are_codes = _is_float(feature) and all(_is_gap(value) or value == int(value) for value in values)
        hint = " (all others are whole numbers: codes beside gaps are stored as decimals)" if are_codes else ""
        raise InputError(
            f"{subject} has {kind} in {len(gaps)} of {len(values)} rows (row {shown}, counted from 1){hint}; fill or "
            "drop them"
        )


def _is_float(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith("float")


def _is_gap(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_gap, value))
    return value is None or (isinstance(value, float) and not math.isfinite(value))
