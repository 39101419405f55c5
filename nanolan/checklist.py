"""One line of a checklist: what was checked, whether it holds, and what to type if not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the checklist; `ok` None means not checked, or only to be known."""

    name: str
    ok: bool | None
    text: str
    fix: str = ""  # what to type or do

    def line(self) -> str:
        return (
            f"  [{ {True: 'ok', False: 'FAILED', None: '--'}[self.ok]:^6}] {self.name}: {self.text}"
        )
