"""A parquet file's columns by its footer, as pyarrow reads them; and no launch for a data set whose layout changed."""

from __future__ import annotations

import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanolan.checkpoint.parquet import TAIL_BYTES, read_footer
from nanolan.errors import BadAnswer
from nanolan.phases import DATASETS, REVISIONS, check_data, data_of
from nanolan.sim.seed import _schemas
from nanolan.train.data.mixtures import columns_of

SCHEMAS = _schemas()


def written(schema: pa.Schema, **how: Any) -> bytes:
    """A file of one row in a schema."""
    return table(pa.Table.from_pylist([{}], schema=schema), **how)


def table(rows: pa.Table, **how: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, **how)
    return file.getvalue()


def columns(data: bytes) -> dict[str, str]:
    return read_footer(io.BytesIO(data), "x.parquet").columns


WRAPPED = pa.schema([("train", pa.struct(list(SCHEMAS["mmlu"])))])
ODD = pa.schema(
    [
        ("a.b", pa.int8()),
        ("m", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("t", pa.timestamp("us", "UTC")),
        ("d", pa.decimal128(9, 2)),
        ("list", pa.list_(pa.list_(pa.large_string()))),
        ("b", pa.bool_()),
        ("f", pa.binary(7)),
    ]
)


@pytest.mark.parametrize(
    "schema", [*SCHEMAS.values(), WRAPPED, ODD], ids=[*SCHEMAS, "wrapped", "odd"]
)
@pytest.mark.parametrize(
    "how",
    [{}, {"version": "1.0", "compression": "gzip"}, {"use_compliant_nested_type": False}],
    ids=str,
)
def test_the_columns_are_those_that_pyarrow_reads(schema: pa.Schema, how: dict[str, Any]) -> None:
    data = written(schema, **how)
    assert columns(data) == columns_of(pq.ParquetFile(io.BytesIO(data)).schema)


@pytest.mark.parametrize("n", [0, 1, 100_000])
def test_the_rows_are_counted(n: int) -> None:
    data = table(pa.table({"question": ["q"] * n}))
    assert read_footer(io.BytesIO(data), "x").rows == n


def test_of_a_large_footer_only_the_start_is_read() -> None:
    table = SCHEMAS["gsm8k"].empty_table()
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema) as writer:
        for _ in range(1500):
            writer.write_table(
                pa.Table.from_pylist([{"question": "q", "answer": "a"}], schema=table.schema)
            )
    data = file.getvalue()
    assert int.from_bytes(data[-8:-4], "little") > TAIL_BYTES
    assert columns(data) == {"question": "BYTE_ARRAY", "answer": "BYTE_ARRAY"}


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "an empty file"),
        (b"PAR1", "cut off"),
        (b"rows " * 99, "cut off"),
        (written(SCHEMAS["mmlu"])[:-9], "cut off"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"<html>", "a web page"),
        (
            b"PAR1" + b"\xff" * 40 + (32).to_bytes(4, "little") + b"PAR1",
            "its footer cannot be read",
        ),
        (b"PAR1" + (99999).to_bytes(4, "little") + b"PAR1", "cut off"),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_a_file_that_is_not_parquet_is_named(data: bytes, says: str) -> None:
    with pytest.raises(BadAnswer, match=f"x.parquet: .*{says}"):
        columns(data)


def test_any_footer_bytes_give_a_quick_bad_answer() -> None:
    dice, good = random.Random(0), written(WRAPPED)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(4, len(data) - 8)] = dice.randrange(256)
        try:
            columns(bytes(data))
        except BadAnswer:
            pass


@pytest.mark.parametrize("name", DATASETS)
def test_the_columns_of_each_data_set_are_those_that_its_reader_needs(name: str) -> None:
    check_data(name, columns(written(SCHEMAS[name])), 1, "x")
    with pytest.raises(BadAnswer, match="x: has no rows"):
        check_data(name, columns(written(SCHEMAS[name])), 0, "x")
    for column in DATASETS[name].columns:
        found = columns(written(SCHEMAS[name]))
        with pytest.raises(
            BadAnswer, match=f"x: lacks the column {column} of {name}.*layout changed"
        ):
            check_data(name, {k: v for k, v in found.items() if k != column}, 1, "x")
        with pytest.raises(BadAnswer, match=f"the column {column} of {name} holds"):
            check_data(name, found | {column: "DOUBLE"}, 1, "x")


def test_the_wrapped_rows_of_mmlu_are_known() -> None:
    check_data("mmlu", columns(written(WRAPPED)), 1, "x")
    assert data_of("allenai/ai2_arc", "ARC-Easy/test-00000-of-00001.parquet") == "arc-easy"
    assert set(REVISIONS) == {d.repo for d in DATASETS.values()}
