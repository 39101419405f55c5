"""Readers and renderers keep their laws for a few hundred made-up inputs each; `just fuzz` goes on for as long as you like."""
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from .fuzz.targets import TARGETS

FEW = {"renderer": 25, "told": 60, "checkpoint": 100, "tokenizer": 100}


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_law_holds_for_whatever_is_drawn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[name]
    settings(max_examples=FEW.get(name, 150), deadline=None, database=None, suppress_health_check=list(HealthCheck))(given(target.given)(target.law))()
    assert not list(tmp_path.iterdir())
