"""One attempt has one cost, whichever command shows it: stop, status, why, report and costs."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.spending import render as render_costs
from nanolan.hub.client import Hub
from nanolan.manage.stop import Stop
from nanolan.money import dollars
from nanolan.redact import Secret
from nanolan.report.from_laptop import report_data_from_laptop
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.run.record import Receipt
from nanolan.shadeform.client import Shadeform
from nanolan.status.text import render
from nanolan.status.why import answer, money
from tests.support.box_fixtures import KEY, TOKEN
from tests.support.settings_fixtures import settings
from tests.support.status_fixtures import (
    RUN,
    TRAINING,
    Desk,
    desk,  # noqa: F401  # a fixture
)

FIGURES = (None, 0, 22, 35)


def shown_by_all(desk: Desk) -> set[str]:  # noqa: F811
    """The cost of the newest attempt as each command shows it, after one look."""
    view = desk.look().runs[0]
    hub = Hub(desk.hub.url, Secret(TOKEN), patience_s=0.2)
    row = next(line for line in render_costs(desk.ledger.entries()) if line.startswith(RUN))
    status = next(line for line in render(desk.look()) if line.startswith("  money"))
    found = {
        "costs": row.split()[-1],
        "status": re.findall(r"\$[\d.]+|\?", status)[0],
        "why": money(answer(view, None)).split()[0],
        "report": re.findall(r": (\$[\d.]+|cost not known)", report_of(view, hub))[0],
    }
    return set(found.values())


def report_of(view: Any, hub: Hub) -> str:
    return report_data_from_laptop(view, hub, ()).headline


@pytest.mark.parametrize(
    "ledger, metered, provider, heartbeat",
    [c for c in itertools.product(FIGURES, repeat=4) if any(c[:3])][::5],
)
def test_the_largest_figure_is_shown_by_every_command(
    desk: Desk,  # noqa: F811
    ledger: int | None,
    metered: int | None,
    provider: int | None,
    heartbeat: int | None,
) -> None:
    desk.cloud.account.instances.clear()
    desk.ledger.put(
        structs.replace(desk.entry, gone=True, note=STOPPED_BY_USER, spent_cents=ledger)
    )
    if metered is not None or provider is not None:
        told = Receipt(RUN, "stopped", "user", metered_cents=metered, provider_cents=provider)
        desk.tell(receipt=told, progress=structs.replace(TRAINING, spent_cents=heartbeat))
    else:
        desk.tell(progress=structs.replace(TRAINING, spent_cents=heartbeat))
    largest = max(c for c in (ledger, metered, provider, heartbeat) if c is not None)
    assert shown_by_all(desk) == {dollars(largest)}


def test_the_figure_of_a_stop_is_the_one_that_is_shown_later(desk: Desk) -> None:  # noqa: F811
    told: list[str] = []
    api = Shadeform(Secret(KEY), desk.cloud.url, sleep=lambda s: None)
    desk.cloud.account.instances[desk.entry.instance_id or ""].created_at -= 60
    desk.tell(progress=structs.replace(TRAINING, spent_cents=22))
    stop = Stop(desk.ledger, api, settings(), told.append, told.append, lambda question: None)
    assert stop.run(RUN, None, True, 60) == 0
    assert shown_by_all(desk) == set(re.findall(r"It cost about (\$[\d.]+)", "".join(told)))
