"""The size of a model, by its meta or its tag."""

from __future__ import annotations

import pytest

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.checkpoint.model_size import D20, parameters_of_tag, size_of

GOOD = {"vocab_size": 65536, "n_layer": 20, "n_head": 10, "n_kv_head": 10, "n_embd": 1280}


def config(**changes: int) -> GPTConfig:
    return GPTConfig(**{"sequence_len": 2048, **GOOD, **changes})


def test_a_d20_has_the_parameters_that_the_readme_says() -> None:
    assert size_of(config()).n_params == 560_988_160 == D20 == parameters_of_tag("d20")


def test_fewer_key_heads_than_query_heads_are_counted() -> None:
    assert size_of(config(n_kv_head=5)).n_params == D20 - 20 * 2 * 1280 * 640


@pytest.mark.parametrize(
    "tag, millions",
    [
        ("d32", 1879),
        ("d12", 186),
        ("d20-exp1", 561),
        ("d200", 394_894),
        ("d1000", 561),
        ("d0", 561),
        ("lanbot", 561),
        ("", 561),
        ("d", 561),
        ("d-3", 561),
        ("x20", 561),
    ],
)
def test_a_tag_gives_the_depth_and_any_other_tag_means_d20(tag: str, millions: int) -> None:
    assert round(parameters_of_tag(tag) / 1e6) == millions
