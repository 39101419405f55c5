"""The model card: what the user wrote stays, what we say is true."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.report.model_card import BEGIN, END, earlier, metadata, new_card
from tests.support.report_fixtures import EVIL, FOLDERS, PHASES, PLAN, RECEIPT

THERE = set(FOLDERS.values())
SFT = replace(RECEIPT, phases={"sft": PHASES["sft"]})
USERS = [
    "# Mine\n\nHello.\n",
    "no newline at the end",
    "---\nlicense: mit\ntags: [mine]\n---\n# Mine\n",
    "\r\n# Windows\r\n\r\ntext\r\n",
    "---\r\nlicense: mit\r\n---\r\n\r\n# Windows\r\n",
    "---\n\na rule above\n\n---\n\nand one below\n",
    f"a stray {BEGIN} begin\n",
    f"a stray {END} end\n",
    "---\n---\nempty front matter\n",
    "\ufeff# with a BOM\n",
    "--- \nlicense: mit\n# a comment\nlist:\n- a\n- b\n--- \nx\n",
]


def card(old: str | None, **changes: object) -> str:
    given = {"plan": PLAN, "receipt": RECEIPT, "folders": THERE} | changes
    return new_card(old, given["plan"], given["receipt"], given["folders"])  # type: ignore[arg-type]


def without_ours(text: str) -> str:
    begin, end = text.rindex(BEGIN), text.rindex(END) + len(END)
    return text[:begin] + text[end:]


def test_a_new_card_has_front_matter_results_the_bill_and_how_to_chat() -> None:
    text = card(None)
    assert text.startswith(
        "---\nlibrary_name: nanochat\npipeline_tag: text-generation\ntags: [nanochat, nanolan]\nmetrics: [accuracy]\n---\n"
    )
    for part in (
        "# lanbot-checkpoints",
        "| `mid_checkpoints/d20` | mid | 800 |",
        "| $25.20 |",
        "| ARC-Easy | 35.0% | 39.0% | 38.0% |",
        "cost $65.40 in 1:56:50 on 8x B200",
        "in `runs/ab12cd34/`",
        "just pull hf-repo=me/lanbot-checkpoints",
        "just chat",
    ):
        assert part in text, part


def test_the_bill_of_a_later_attempt_is_not_said_to_be_the_whole_runs() -> None:
    assert "its last machine alone" in card(
        None, plan=replace(PLAN, attempt=2)
    ) and "alone" not in card(None)


@pytest.mark.parametrize("old", USERS)
def test_what_the_user_wrote_is_kept_byte_for_byte_twice(old: str) -> None:
    once = card(old)
    twice = card(once)
    assert twice == once
    body = old.lstrip("\ufeff").rstrip("\r\n")
    front, _, rest = body.partition("license: mit") if "license: mit" in body else ("", "", body)
    assert rest.strip().rpartition("---")[2].strip() in without_ours(once)
    assert once.count(BEGIN) == old.count(BEGIN) + 1 and once.count(END) == old.count(END) + 1
    assert "license: mit" in once or "license: mit" not in old


@given(st.text(alphabet="ab-:#\n\r |<>!", max_size=60))
def test_any_text_is_still_there(old: str) -> None:
    if old.strip() and not old.lstrip("\ufeff").startswith("---"):
        assert old.rstrip("\r\n") in card(old)


def test_front_matter_is_added_to_and_never_changed() -> None:
    text = card("---\nlicense: mit\ntags:\n- mine\n---\n# Mine\n")
    assert text.startswith(
        "---\nlicense: mit\ntags:\n- mine\nlibrary_name: nanochat\npipeline_tag: text-generation\nmetrics: [accuracy]\n---\n# Mine"
    )
    assert card("---\n\na rule\n\n---\nx").startswith("---\nlibrary_name"), (
        "a rule is no front matter"
    )
    assert "\r\nlibrary_name: nanochat\r\n" in card("---\r\nlicense: mit\r\n---\r\nx")


def test_metrics_are_claimed_only_where_there_was_an_evaluation() -> None:
    bare = replace(RECEIPT, phases={"mid": replace(PHASES["mid"], measured={"val_bpb": 0.4})})
    text = card(None, receipt=bare)
    assert "metrics:" not in text and "## Evaluation" not in text and "val_bpb 0.4000" in text


def test_our_part_stays_where_the_user_has_moved_it() -> None:
    moved = f"top\n\n{BEGIN}\nold\n{END}\n\nbottom\n"
    text = card(moved)
    assert (
        text.index("top") < text.index(BEGIN) < text.index(END) < text.index("bottom")
        and "\nold\n" not in text
    )


def test_results_of_earlier_runs_stay_as_long_as_their_folder_does() -> None:
    first = card(
        None,
        receipt=replace(RECEIPT, phases={"mid": PHASES["mid"]}),
        plan=replace(PLAN, run_id="11111111"),
    )
    both = card(first, receipt=SFT)
    assert set(earlier(both)) == {FOLDERS["mid"], FOLDERS["sft"]} and "`11111111`" in both
    assert set(earlier(card(both, receipt=SFT, folders={FOLDERS["sft"]}))) == {FOLDERS["sft"]}
    again = card(both, receipt=replace(RECEIPT, phases={"mid": replace(PHASES["mid"], step=900)}))
    assert "| mid | 900 |" in again and "| mid | 800 |" not in again and "11111111" not in again


@pytest.mark.parametrize(
    "ours",
    [
        "",
        "<!-- nanolan:data -->",
        "<!-- nanolan:data {} -->",
        "<!-- nanolan:data [{]} -->",
        '<!-- nanolan:data [{"folder": 1}] -->',
        f"<!-- nanolan:data {'[' * 5000} -->",
    ],
)
def test_a_damaged_part_of_ours_is_replaced(ours: str) -> None:
    assert f"| `{FOLDERS['mid']}` |" in card(f"mine\n\n{BEGIN}\n{ours}\n{END}\n")


def test_what_is_not_proven_is_not_shown() -> None:
    text = card(
        None,
        receipt=replace(
            RECEIPT, phases={"mid": PHASES["mid"], "sft": replace(PHASES["sft"], state="failed")}
        ),
    )
    assert FOLDERS["sft"] not in text


def test_where_the_runs_are_in_another_repo_nothing_of_them_is_told() -> None:
    text = card(None, plan=replace(PLAN, runs_repo="me/private"))
    assert (
        "me/private" not in text
        and "$" not in text
        and "runs/" not in text
        and "| ARC-Easy |" in text
    )


def test_no_name_can_leave_its_cell_or_our_part() -> None:
    phases = {"mid": replace(PHASES["mid"], folder=f"mid|{END}{EVIL}")}
    text = card(None, receipt=replace(RECEIPT, phases=phases), folders={phases["mid"].folder})
    assert text.count(END) == 1 and "<script>" not in text and "| `mid?" in text
    assert phases["mid"].folder in earlier(text)


def test_numbers_that_are_none_are_left_out_and_lose_no_earlier_result() -> None:
    text = card(
        None,
        receipt=replace(
            RECEIPT,
            phases={
                "mid": replace(PHASES["mid"], measured={"val_bpb": float("nan"), "mmlu_acc": 0.3})
            },
        ),
    )
    assert "nan" not in text.replace("nanochat", "").replace("nanolan", "") and earlier(text)[
        FOLDERS["mid"]
    ].measured == {"mmlu_acc": 0.3}


FRONTS = [
    "description: |\n  several\n  lines\n",
    "description: >-\n  folded\n\n  text\n",
    "tags:\n- a\n- b\n",
    'title: "one\n  two"\n',
    "model-index:\n- name: x\n  results: []\n",
    "datasets: [a,\n  b\n]\nlicense: mit\n",
    "? license\n: mit\n",
    "'license': mit # why\n",
    "lizenz ü: x\n",
]


@pytest.mark.parametrize("front", FRONTS)
def test_front_matter_of_any_yaml_is_kept_as_the_hubs_library_reads_it(front: str) -> None:
    before, text = metadata(front), card(f"---\n{front}---\n# Mine\n")
    after = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    assert (
        before
        and {k: after.get(k) for k in before} == before
        and after["library_name"] == "nanochat"
    )
    assert text.startswith(f"---\n{front}")


def test_front_matter_that_takes_no_further_line_stays_as_it_is() -> None:
    assert card("---\n{license: mit}\n---\n# Mine\n").startswith(
        "---\n{license: mit}\n---\n# Mine\n"
    )
