"""Converts an overview to JSON values. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from nanolan.cost.spending import split, waste
from nanolan.money import usd
from nanolan.plan import Plan
from nanolan.run.record import Progress, Receipt
from nanolan.status.run_list import waiting_dict
from nanolan.status.text import clock_of, rate_of, resume_command
from nanolan.status.view import Overview, RunView
from nanolan.times import iso


def to_dict(o: Overview) -> dict[str, Any]:
    """For --json: no provider JSON, no secrets; money in dollars as text, unknown is null."""
    return {
        "schema_version": 1,
        "problems": list(o.problems),
        "runs": [_run_dict(v) for v in o.runs],
        "not_in_the_ledger": [i.id for i in o.strays],
        "machines": _machines(o),
        "others": {"count": len(o.others), "usd_per_hour": usd(rate_of(o.others))},
        "unreadable": list(o.gaps),
    }


def _machines(o: Overview) -> list[dict[str, Any]]:
    """Every billing machine of the account and the run it belongs to."""
    shown = [
        ("run", v.instance, f"run {v.entry.plan.run_id}")
        for v in o.runs
        if v.instance and v.instance.billing
    ]
    rest = [("stray", i, o.why.get(i.id, "not in the ledger")) for i in o.strays]
    rest += [("run", i, f"run {i.run_id}") for i in o.unasked] + [
        ("other", i, "not ours") for i in o.others
    ]
    return [
        {
            "role": role,
            "instance_id": i.id,
            "name": i.name,
            "status": i.status,
            "run_id": i.run_id,
            "what": what,
            "usd_per_hour": usd(i.hourly_cents),
            "command": None if role == "other" else f"just stop {i.id} --now",
        }
        for role, i, what in [*shown, *rest]
    ]


def _run_dict(v: RunView) -> dict[str, Any]:
    plan = v.terms()
    return {
        "run_id": plan.run_id,
        "run_name": plan.run_name,
        "name": plan.instance_name,
        "state": v.state,
        "reason": v.reason,
        "waiting": waiting_dict(v.entry.waiting) if v.entry.waiting and not v.ended else None,
        "earlier_attempts": [
            {
                "attempt": a.number,
                "instance_id": a.instance_id,
                "note": a.note,
                "spent_usd": usd(a.spent_cents),
            }
            for a in v.entry.earlier
        ],
        "instance_id": v.entry.instance_id,
        "instance_status": v.instance.status if v.instance else None,
        "machine_unknown": v.unknown or None,
        "provider_changed": v.changed() or None,
        "spent_usd": usd(v.spent_cents),
        "limit_usd": usd(plan.limit_cents),
        "usd_per_hour": None if v.entry.waiting else usd(plan.offer.hourly_cents),
        "spot": plan.offer.spot,
        "deadline": None if v.entry.waiting else plan.deadline,
        "clock": _clock_dict(v),
        "ended": v.ended,
        "phases": {p: msgspec.to_builtins(r) for p, r in v.phases.items()},
        "progress": _progress_dict(v.progress) if v.progress else None,
        "attempt": plan.attempt,
        "saved": {"phase": v.saved.phase, "step": v.saved.step} if v.saved else None,
        "resume": resume_command(v) if v.resumable else None,
        "log": v.receipt.log if v.receipt else None,
        "warning": v.receipt.warning or None if v.receipt else None,
        "bill": _bill_dict(v.receipt, plan) if v.receipt else None,
        "problems": list(v.problems),
    }


def _progress_dict(p: Progress) -> dict[str, Any]:
    names = ("phase", "stage", "step", "steps", "loss", "tok_per_s", "phase_left_s", "updated")
    return {name: getattr(p, name) for name in names} | {
        "trouble": p.trouble or None,
        "trouble_since": p.trouble_since or None,
    }


def _clock_dict(v: RunView) -> dict[str, Any]:
    o = clock_of(v)
    return {
        "will_cost_usd": usd(o.will_cost_cents),
        "ends": iso(o.ends) if o.ends else None,
        "limit_at": iso(o.limit_at) if o.limit_at else None,
        "warning": o.warning or None,
    }


def _bill_dict(r: Receipt, plan: Plan) -> dict[str, Any]:
    p, cents, lost = r.predicted or plan.predicted, split(r, plan.offer.hourly_cents), waste(r)
    return {
        "predicted_usd": {
            "low": usd(p.low_cents),
            "likely": usd(p.likely_cents),
            "high": usd(p.high_cents),
        }
        if p
        else None,
        "metered_usd": usd(r.metered_cents),
        "provider_usd": usd(r.provider_cents),
        "stages": {
            stage: {"seconds": r.stages[stage], "usd": usd(c)} for stage, c in cents.items()
        },
        "phases_usd": {phase: usd(c) for phase, c in r.phase_cents.items()},
        "waste_percent": None if lost is None else round(100 * lost),
    }
