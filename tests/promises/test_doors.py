"""What one door refuses, all refuse, in the same words: upload, adopt, verify, doctor, launch (and its dry run), resume, the trainer.

A table of inputs that no run could begin with. Whatever is put into it is tried at every door that meets that kind of file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS
from nanolan.doctor.accounts import check_structure
from nanolan.doctor.context import open_context
from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.hub.input_check import inspect_inputs
from nanolan.hub.layout import adopt, verify
from nanolan.hub.upload_set import check_together, collect, default_path
from nanolan.launch.preflight import check_hub
from nanolan.model import checkpoint
from nanolan.model.tokenizer import load_tokenizer
from nanolan.phases import IDENTITY_FILE
from nanolan.redact import Secret
from nanolan.settings.load import load_settings
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from nanolan.train.data.mixtures import IDENTITY, Part, open_part
from nanolan.train.phase import check_fit
from nanolan.train.recipe import RECIPES
from tests.support.checkpoint_fixtures import (
    BASE,
    CONFIG,
    inputs,
    meta,
    saved,
    tokenizer,
    weights,
)
from tests.support.conversation_forms import ACCEPTED, REFUSED

REPO, MODEL, META = "me/lanbot", f"{BASE}/model_000007.pt", f"{BASE}/meta_000007.json"
PKL, SIZES = "tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt"
GOOD = inputs()
LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 2080000000\n"
)
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n'
HTML = b"\n<!DOCTYPE html><html><body>Too many requests</body></html>\n"
Files = dict[str, bytes]


# ------------------------------------------------------------------ the doors: each says why not, or ""
def no(call: Callable[[], object]) -> str:
    try:
        call()
    except NanolanError as e:
        return str(e)
    return ""


def at_upload(hub: Hub, folder: Path) -> str:
    kinds = ("base", "tokenizer", "data")
    return no(
        lambda: check_together([collect(k, default_path(k, folder, "d20"), "d20") for k in kinds])
    )


def at_adopt(hub: Hub, folder: Path) -> str:
    return no(lambda: adopt(hub, REPO, BASE))


def at_verify(hub: Hub, folder: Path) -> str:
    """With a manifest that its files bear out: proven is not yet good."""
    names = sorted(p.name for p in (folder / BASE).iterdir() if not p.name.startswith("optim_"))
    entries = tuple(hash_bytes(n, (folder / BASE / n).read_bytes()) for n in names)
    hub.commit(
        REPO,
        {f"{BASE}/manifest.json": Manifest("ab12cd34", "base", 7, entries).to_json().encode()},
        "proven",
    )
    return no(lambda: verify(hub, REPO, BASE))


def settings(hub: Hub, **flags: str) -> Any:
    return load_settings(
        {"hf_repo": REPO, "phase": "mid", "eval": "none"} | flags,
        {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITER},
    )


def at_doctor(hub: Hub, folder: Path, **flags: str) -> str:
    context = open_context(
        settings(hub, **flags), (), {}, folder / ".env", folder, folder / "home", folder / "keys", 1
    )
    return "; ".join(c.text for c in check_structure(context) if c.ok is False)


def at_launch(hub: Hub, folder: Path, **flags: str) -> str:
    """A dry run makes the same look."""
    s = settings(hub, **flags)
    found = check_hub(hub, s)
    return "; ".join(c.text for c in found.failed if not c.name.startswith("data set"))


def at_resume(hub: Hub, folder: Path) -> str:
    """What was pinned, perhaps by an older launch."""
    tree = hub.tree(REPO)
    pins = [
        tree.pin(p for p in tree.files if p.startswith(start))
        for start in (BASE, "tokenizer", IDENTITY_FILE)
    ]
    return no(lambda: inspect_inputs(hub, [p for p in pins if p.files]))


def at_trainer(hub: Hub, folder: Path) -> str:
    def begin() -> None:
        tokens = load_tokenizer(folder / "tokenizer")
        check_fit(checkpoint.load(folder / BASE).model, tokens, RECIPES["mid"])
        open_part(Part(IDENTITY), folder, 0)

    return no(begin)


CHECKPOINT = (
    at_upload,
    at_doctor,
    at_launch,
    at_resume,
    at_trainer,
    at_adopt,
    at_verify,
)  # the last two write a manifest
OTHERS = (at_upload, at_doctor, at_launch, at_resume, at_trainer)


# ------------------------------------------------------------------ the table
def put(path: str, data: bytes | None) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        return {k: v for k, v in {**files, path: data}.items() if v is not None}

    return change


def config(**changes: Any) -> Callable[[Files], Files]:
    return put(META, meta(**changes))


def model(**changes: Any) -> Callable[[Files], Files]:
    """Tensors added, replaced, or (None) left out."""
    return put(MODEL, saved({k: v for k, v in {**weights(), **changes}.items() if v is not None}))


def sized(**changes: Any) -> Callable[[Files], Files]:
    """A model and a meta that belong together, but not to the tokenizer."""
    return lambda files: {**files, MODEL: saved(weights(**changes)), META: meta(**changes)}


def newer(files: Files) -> Files:
    """A save that was killed after its model."""
    return {**files, f"{BASE}/model_000012.pt": GOOD[MODEL]}


def seven_digits(files: Files) -> Files:
    """Two whole steps, the newer of which has one digit more and is no good."""
    step = f"{BASE}/model_1000000.pt", f"{BASE}/meta_1000000.json"
    return {
        **files,
        f"{BASE}/model_999999.pt": GOOD[MODEL],
        f"{BASE}/meta_999999.json": meta(999_999),
        step[0]: GOOD[MODEL],
        step[1]: meta(7),
    }


def twice(t: torch.Tensor) -> torch.Tensor:
    return t.to(torch.int32)


WTE = "transformer.wte.weight"
CHECKPOINTS: dict[str, tuple[Callable[[Files], Files], str]] = {
    "the 2026 architecture": (config(window_pattern="SSSL"), "window_pattern.*newer architecture"),
    "the 2026 tensors": (
        model(resid_lambdas=torch.zeros(1), **{"smear_gate.weight": torch.zeros(1, 24)}),
        "resid_lambdas does not belong",
    ),
    **{
        f"n_embd {value!r}": (config(n_embd=value), "n_embd is")
        for value in (256.0, "8", True, -8, 0, 10**9, None, [8], float("inf"))
    },
    **{
        f"no {name}": (
            put(
                META,
                json.dumps(
                    {"model_config": {k: v for k, v in CONFIG.items() if k != name}}
                ).encode(),
            ),
            f"{name} is None",
        )
        for name in CONFIG
    },
    "heads that do not divide": (config(n_head=3, n_kv_head=3), "does not divide into heads"),
    "kv heads that do not divide": (config(n_head=4, n_kv_head=3), "does not divide into heads"),
    "an odd head": (config(n_embd=6), "does not divide into heads"),
    "other sizes than the meta's": (config(n_embd=16), "they do not belong together"),
    "more layers in the meta": (config(n_layer=2), "no transformer.h.1.*belong to its meta"),
    "fewer layers in the meta": (
        model(**{k: v for k, v in weights(n_layer=2).items() if ".h.1." in k}),
        "transformer.h.1.*does not belong",
    ),
    "a missing tensor": (model(**{"lm_head.weight": None}), "no lm_head.weight"),
    "whole numbers": (model(**{WTE: twice(weights()[WTE])}), "does not hold floats"),
    "booleans": (model(**{WTE: weights()[WTE].bool()}), "does not hold floats"),
    "another shape": (model(**{WTE: weights()[WTE].T.contiguous()}), "they do not belong together"),
    "a name twice": (model(**{f"_orig_mod.{WTE}": weights()[WTE]}), "there twice"),
    "a wrapped state": (put(MODEL, saved({"model": weights()})), "not a dictionary of tensors"),
    "a single tensor": (put(MODEL, saved(torch.zeros(3))), "lm_head.weight|not a dictionary"),
    "cut to 60 %": (put(MODEL, GOOD[MODEL][: len(GOOD[MODEL]) * 6 // 10]), "cut off"),
    "cut by a byte": (put(MODEL, GOOD[MODEL][:-1]), "cut off"),
    "a hole in the middle": (
        put(MODEL, GOOD[MODEL][:1500] + GOOD[MODEL][1564:]),
        "cut off|compressed or inconsistent|refused",
    ),
    "a pointer as model": (put(MODEL, LFS), "model_000007.pt is a git-lfs pointer"),
    "a page as model": (put(MODEL, HTML), "model_000007.pt is a web page"),
    "nothing as model": (put(MODEL, b""), "an empty file"),
    "a packed model": (put(MODEL, b"\x1f\x8b\x08" + b"0" * 99), "packed by gzip"),
    "a pointer as meta": (put(META, LFS), "meta_000007.json is a git-lfs pointer"),
    "an error page as meta": (put(META, XML), "meta_000007.json is an XML page"),
    "nothing as meta": (put(META, b""), "meta_000007.json is an empty file"),
    "half a meta": (put(META, meta()[:40]), "not JSON"),
    "a list as meta": (put(META, b"[]"), "has no model_config"),
    "a meta of nothing": (put(META, b"{}"), "has no model_config"),
    "a huge meta": (put(META, meta()[:-1] + b" " * (1 << 20) + b"}"), "not a meta file"),
    **{
        f"step {step!r} in the meta": (put(META, meta(step)), "not its file name's")
        for step in (12, "7", True, [7], -7)
    },
    "no meta beside the model": (put(META, None), "no meta_000007.json.*upload both"),
    "a killed save": (newer, "no meta_000012.json.*step 7, which has both"),
    "a name padded to seven digits": (
        lambda files: {k.replace("_000007", "_0000007"): v for k, v in files.items()},
        "no model",
    ),
    "a bad step of seven digits": (seven_digits, "meta_1000000.json: says step 7"),
    "too few positions": (sized(sequence_len=128), "positions end at 1280"),
}
VOCABULARIES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a padded vocabulary": (
        sized(vocab_size=320),
        "padded vocabulary: 320 rows for the tokenizer's 265 tokens",
    ),
    "a smaller tokenizer": (sized(vocab_size=300), "vocabulary of 300, the tokenizer has 265"),
    "a larger tokenizer": (sized(vocab_size=264), "vocabulary of 264, the tokenizer has 265"),
    "a special token more": (
        lambda files: {**files, **tokenizer((*SPECIAL_TOKENS, "<|tool|>"))},
        "vocabulary of 265, the tokenizer has 266",
    ),
}
TOKENIZERS: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a pointer as tokenizer": (put(PKL, LFS), "tokenizer.pkl is a git-lfs pointer"),
    "a page as tokenizer": (put(PKL, XML), "tokenizer.pkl is an XML page"),
    "nothing as tokenizer": (put(PKL, b""), "tokenizer.pkl is an empty file"),
    "half a tokenizer": (put(PKL, GOOD[PKL][:900]), "refused, not a plain tiktoken encoding"),
    "no special token": (
        lambda files: {**files, **tokenizer(SPECIAL_TOKENS[:-1])},
        "no special token <|output_end|>",
    ),
    "other sizes of tokens": (
        put(SIZES, saved(torch.zeros(264, dtype=torch.int32))),
        "does not fit the 265 tokens",
    ),
    "sizes that are no whole numbers": (
        put(SIZES, saved(torch.zeros(265))),
        "does not fit the 265 tokens",
    ),
    "a pointer as sizes": (put(SIZES, LFS), "token_bytes.pt is a git-lfs pointer"),
}


# Of the table in tests/support/conversation_forms.py, which is tried whole at the reader; a document, a line, a whole file
READ = ("an object a line", "an array of objects over lines", "a BOM", "CR", "tool calls")
NOT_READ = (
    "an empty file",
    "blank lines only",
    "a git-lfs pointer",
    "a web page",
    "UTF-16",
    "latin-1",
    "ShareGPT",
    "Alpaca",
    "a line cut off",
    "a long line",
    "deep arrays",
    "half a character",
    "the user twice",
    "ends with the user",
    "system, then assistant",
    "a blank text",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        yield server


def told(server: HubServer, tmp_path: Path, files: Files, doors: Any) -> dict[str, str]:
    """What each door says of these files."""
    folder = tmp_path / "base"
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    answers = {}
    for door in doors:
        server.put(REPO, files)
        answers[door.__name__] = door(Hub(server.url, Secret(WRITER), patience_s=1), folder)
    return answers


def all_refuse(answers: dict[str, str], says: str) -> None:
    differ = {name: text for name, text in answers.items() if not re.search(says, text, re.S)}
    assert not differ, f"{differ} lack {says!r}"


def test_good_inputs_pass_every_door(server: HubServer, tmp_path: Path) -> None:
    assert set(told(server, tmp_path, GOOD, CHECKPOINT).values()) == {""}


def test_the_newest_step_of_seven_digits_is_taken_as_the_larger_number(
    server: HubServer, tmp_path: Path
) -> None:
    files = {
        **seven_digits(GOOD),
        f"{BASE}/meta_1000000.json": meta(1_000_000),
        f"{BASE}/model_999999.pt": b"no good",
    }
    assert set(
        told(server, tmp_path, files, (at_upload, at_doctor, at_launch, at_trainer)).values()
    ) == {""}


@pytest.mark.parametrize("name", [*CHECKPOINTS, *VOCABULARIES])
def test_a_checkpoint_that_cannot_be_trained_from_is_refused_at_every_door(
    server: HubServer, tmp_path: Path, name: str
) -> None:
    change, says = (CHECKPOINTS | VOCABULARIES)[name]
    all_refuse(told(server, tmp_path, change(GOOD), CHECKPOINT), says)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_refused_at_every_door(
    server: HubServer, tmp_path: Path, name: str
) -> None:
    change, says = TOKENIZERS[name]
    all_refuse(told(server, tmp_path, change(GOOD), OTHERS), says)


@pytest.mark.parametrize("form", READ)
def test_conversations_in_an_accepted_form_pass_every_door(
    server: HubServer, tmp_path: Path, form: str
) -> None:
    files = {**GOOD, IDENTITY_FILE: ACCEPTED[form][0]}
    assert set(told(server, tmp_path, files, OTHERS).values()) == {""}


@pytest.mark.parametrize("form", NOT_READ)
def test_conversations_in_no_accepted_form_are_refused_at_every_door_with_their_line(
    server: HubServer, tmp_path: Path, form: str
) -> None:
    file, line, why = REFUSED[form]
    says = f"line {line}: .*{re.escape(why)}" if line else re.escape(why)
    all_refuse(told(server, tmp_path, {**GOOD, IDENTITY_FILE: file}, OTHERS), says)
