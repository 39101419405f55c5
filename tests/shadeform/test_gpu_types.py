"""Which GPU types a name means: an exact type, its variants, or every type with that part."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.shadeform.gpu_types import GPUS, is_known, matching, unknown_gpu_text
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Wanted, check_one_type, choose
from nanolan.sim.shadeform.sample_offers import SAMPLE

LISTED = {o.gpu for entry in SAMPLE for o in offers_of(entry)}
MARKET = sorted({*GPUS, *LISTED})


def forms(gpu: str) -> set[str]:
    """The ways in which a person may type a GPU."""
    return {gpu, gpu.lower(), gpu.upper(), gpu.replace("_", "-"), gpu.replace("_", " ")}


@pytest.mark.parametrize("gpu", MARKET)
def test_a_type_of_the_market_means_itself_only_however_it_is_typed(gpu: str) -> None:
    for typed in forms(gpu):
        assert matching(typed, MARKET) == {gpu} and is_known(typed, MARKET)


@pytest.mark.parametrize("gpu", MARKET)
def test_a_type_that_is_not_for_rent_today_means_at_most_its_variants(gpu: str) -> None:
    found = matching(gpu, set(MARKET) - {gpu})
    assert all(name.startswith(f"{gpu}_") for name in found)


@pytest.mark.parametrize(
    "typed, found",
    [
        ("A10", set()),
        ("L4", set()),
        ("H20", {"GH200", "H200"}),  # no type itself: it lists what has it
        ("A100", {"A100_80G"}),
        ("V100", {"V100_32G"}),
        ("80g", {"A100_80G"}),
        ("nvl", {"H100_nvl"}),
        ("RTX", {gpu for gpu in MARKET if gpu.startswith("RTX")}),
        ("any", set(MARKET) - {"A10", "L4", "A100", "V100"}),
        ("Any", set(MARKET) - {"A10", "L4", "A100", "V100"}),
        ("banana", set()),
    ],
)
def test_a_part_of_a_name_means_every_type_that_has_it(typed: str, found: set[str]) -> None:
    assert matching(typed, set(MARKET) - {"A10", "L4", "A100", "V100"}) == found


def test_several_types_are_no_answer_to_which_one_to_rent() -> None:
    offers, _ = choose([o for entry in SAMPLE for o in offers_of(entry)], Wanted("H10"))
    with pytest.raises(
        UsageProblem, match="gpu=h10 fits several types: H100, H100_nvl. With --yes"
    ):
        check_one_type(offers, "h10")
    check_one_type([o for o in offers if o.gpu == "H100"], "h10")
    check_one_type([], "h10")


def test_a_name_of_no_type_is_answered_with_the_nearest_or_the_list() -> None:
    assert not is_known("H10O", LISTED) and not is_known("banana", LISTED)
    assert "Did you mean gpu=H100?" in unknown_gpu_text("H10O", LISTED)
    assert "Known are A10, A100" in unknown_gpu_text("banana", LISTED)
