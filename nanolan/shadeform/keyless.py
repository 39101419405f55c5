"""A Shadeform client without a key: reads answer from the plan, changes raise."""

from __future__ import annotations

from typing import Any, NoReturn

from nanolan.errors import ApiProblem
from nanolan.plan import Plan
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import (
    ON_DEMAND,
    SPOT,
    Instance,
    attempt_tag,
    owner_tag,
    run_tag,
)
from nanolan.shadeform.records import Listing
from nanolan.times import parse_time


class KeylessClient(Shadeform):
    """The client of a box without a Shadeform key. Its bill is price x age since the plan was made, slightly above the real
    one; the provider's figure is unknown."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(None, plan.shadeform_api)
        self._instance = instance_in_plan(plan)

    def instances(self) -> Listing[Instance]:
        """This box's own instance."""
        return Listing([self._instance])

    def info(self, instance_id: str) -> Instance:
        """This box's own instance, for any id."""
        return self._instance

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> NoReturn:
        raise ApiProblem(
            "no Shadeform key is on this machine: it can read and delete nothing at Shadeform"
        )


def instance_in_plan(plan: Plan) -> Instance:
    """The instance as its plan describes it; its name stands in for the unknown id."""
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
        rental=SPOT if o.spot else ON_DEMAND,
    )
