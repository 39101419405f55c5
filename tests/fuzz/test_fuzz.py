"""Readers and renderers keep their laws for some made-up inputs each; `just fuzz` goes on for as long as you like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS

FEW = {"renderer": 10, "told": 15}


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_law_holds_for_whatever_is_drawn(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[name]
    settings(
        max_examples=FEW.get(name, 30),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )(given(target.given)(target.law))()
    assert not list(tmp_path.iterdir())
