"""The model card: what the user wrote stays, what we say is true."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.report.model_card import BEGIN, END, earlier, metadata, new_card
from nanolan.sim.hub.commits import metadata_problem
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
        "---\nlibrary_name: nanochat\npipeline_tag: text-generation\ntags: [nanochat, nanolan]\nmetrics: [accuracy]\nmodel-index:\n"
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
        "---\nlicense: mit\ntags:\n- mine\nlibrary_name: nanochat\npipeline_tag: text-generation\nmetrics: [accuracy]\nmodel-index:\n"
    ) and text.partition("\n---\n")[2].startswith("# Mine")
    assert card("---\n\na rule\n\n---\nx").startswith("---\nlibrary_name"), (
        "a rule is no front matter"
    )
    assert "\r\nlibrary_name: nanochat\r\n" in card("---\r\nlicense: mit\r\n---\r\nx")


def test_metrics_are_claimed_only_where_there_was_an_evaluation() -> None:
    bare = replace(RECEIPT, phases={"mid": replace(PHASES["mid"], measured={"val_bpb": 0.4})})
    text = card(None, receipt=bare)
    assert "metrics:" not in text and "## Evaluation" not in text and "val_bpb 0.4000" in text


# ------------------------------------------------------------------ the scores that the Hub reads
MODEL_INDEX = "model-index:\n- name: x\n  results: []\n"


def index_of(text: str) -> list[dict[str, object]]:
    front = text.split("---")[1].replace("\r", "")
    return yaml.safe_load(front).get("model-index") or []


def test_the_hubs_library_reads_the_scores_of_every_checkpoint_from_the_front_matter() -> None:
    text = card(None)
    assert [m["name"] for m in index_of(text)] == list(FOLDERS.values())
    results = ModelCard(text).data.eval_results
    found = {(r.dataset_config, r.metric_type, r.metric_value) for r in results}
    assert {("ARC-Easy", "accuracy", v) for v in (0.35, 0.39, 0.38)} <= found
    assert {r.dataset_type for r in results} == {"allenai/ai2_arc", "cais/mmlu", "openai/gsm8k"}
    assert {r.dataset_split for r in results} == {"test"}
    assert all("a part of the questions" in r.metric_name for r in results), "eval=quick"
    assert results[0].source_url.endswith(f"/me/lanbot-checkpoints/tree/main/{FOLDERS['mid']}")
    assert metadata_problem(text) == "", "as the Hub checks it"


def test_a_whole_evaluation_is_an_accuracy_and_nothing_else() -> None:
    results = ModelCard(card(None, plan=replace(PLAN, evaluate="full"))).data.eval_results
    assert {r.metric_name for r in results} == {"accuracy"}


def test_a_quick_score_of_an_earlier_run_stays_a_quick_one() -> None:
    first = card(None, receipt=replace(RECEIPT, phases={"mid": PHASES["mid"]}))
    mid, sft = index_of(card(first, receipt=SFT, plan=replace(PLAN, evaluate="full")))
    assert "a part" in str(mid) and "a part" not in str(sft)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("before, after", [("", ""), ("a: 1\n", ""), ("", "b: [x]\n# why\n")])
def test_our_scores_are_replaced_where_they_stand(before: str, after: str, end: str) -> None:
    old = f"---\n{before}{after}license: mit\n---\n# Mine\n".replace("\n", end)
    once = card(old, folders={FOLDERS["mid"]})
    moved = once.replace(f"license: mit{end}", "").replace(
        f"---{end}# M", f"license: mit{end}---{end}# M"
    )
    both = card(moved)
    assert [len(index_of(t)) for t in (once, moved, both)] == [1, 1, 3]
    assert both.count("model-index:") == 1 and both.index("model-index") < both.index("license")
    assert card(both) == both and "\n" not in both.split("---")[1].replace(end, "")
    bare = card(both, receipt=replace(RECEIPT, phases={}), folders=set())
    assert (
        "model-index" not in bare and before.replace("\n", end) in bare and "license: mit" in bare
    )


@pytest.mark.parametrize(
    "front",
    [
        MODEL_INDEX,
        "model-index:\n  - name: x\n    results:\n    - source: {name: me}\n",
        "model-index: [{name: x, results: [{source: {name: nanolan}}, {}]}]\n",
        "model-index: 3\n",
        "model-index:\n",
        "'model-index': []\n",
        "{license: mit, model-index: []}\n",
        "license: mit\n...\n",
        "a: &a [1]\nb: *a\n",
    ],
)
def test_scores_of_the_user_and_any_other_yaml_stay_as_they_are(front: str) -> None:
    text = card(f"---\n{front}---\n# Mine\n")
    before, after = yaml.safe_load(front), yaml.safe_load(text.split("---")[1])
    assert text.startswith(f"---\n{front}") and card(text) == text
    assert {k: after[k] for k in before} == before


def test_a_card_without_scores_in_its_front_matter_loses_those_of_before() -> None:
    text = new_card(card(None), PLAN, RECEIPT, THERE, index=False)
    assert "model-index" not in text and "| ARC-Easy |" in text


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
