"""One line of a checklist: what was checked, the result, and what to type if it failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the checklist; `ok` None means not checked, or information only."""

    name: str
    ok: bool | None
    text: str
    fix: str = ""  # what to type or do

    def line(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "--"}[self.ok]
        return f"  [{mark:^6}] {self.name}: {self.text}"
