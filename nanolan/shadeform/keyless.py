"""Shadeform for a machine that holds no key: it knows of itself what its plan says, and can neither see nor change anything."""

from __future__ import annotations

from typing import Any, NoReturn

from nanolan.errors import ApiProblem
from nanolan.plan import Plan
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, attempt_tag, owner_tag, run_tag
from nanolan.shadeform.records import Listing
from nanolan.times import parse_time


class KeylessClient(Shadeform):
    """Takes the place of the account on such a machine. Its bill is then price x age since the plan was made, which is a little
    more than the truth; the provider's own figure is not known."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(None, plan.shadeform_api)
        self._me = machine_of(plan)

    def instances(self) -> Listing[Instance]:
        """This machine."""
        return Listing([self._me])

    def info(self, instance_id: str) -> Instance:
        """This machine, whatever its id is called."""
        return self._me

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> NoReturn:
        raise ApiProblem(
            "no Shadeform key is on this machine: it can ask for nothing and delete nothing"
        )


def machine_of(plan: Plan) -> Instance:
    """The machine of a plan, as far as the plan can tell; its id is not known to it."""
    o = plan.offer
    return Instance(
        id=plan.instance_name,
        name=plan.instance_name,
        status="active",
        details="",
        cloud=o.cloud,
        region=o.region,
        instance_type=o.instance_type,
        gpu=o.gpu,
        num_gpus=o.num_gpus,
        hourly_cents=o.hourly_cents,
        cost_cents=None,
        created_at=parse_time(plan.created_at),
        ip=None,
        ssh_user="shadeform",
        ssh_port=22,
        ssh_key_id=None,
        tags=(run_tag(plan.run_id), attempt_tag(plan.attempt), owner_tag(plan.owner)),
        limits=None,
        shade_cloud=True,
    )
