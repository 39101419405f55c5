"""nanochat's model by its depth. Needs no torch."""

from __future__ import annotations

from nanolan.checkpoint.architecture import GPTConfig


def config_of(depth: int) -> GPTConfig:
    """nanochat's model of so many layers."""
    return GPTConfig(2048, 65_536, depth, depth // 2, depth // 2, 64 * depth)
