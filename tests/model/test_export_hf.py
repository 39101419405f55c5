"""Exported checkpoints against the real transformers class and the real tokenizers library."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from nanolan.errors import UsageProblem
from nanolan.model.checkpoint import load
from nanolan.model.conversation import render
from nanolan.model.export_hf import export
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.data.tiny_model import write_tiny
from tests.support.core_fixtures import script

transformers = pytest.importorskip(
    "transformers", reason="transformers is a test dependency of its own"
)
TEXTS = [
    "The quick brown fox jumps over the lazy dog. 12 + 34 = 46!",
    "naïve café, 日本語 and emoji 🎉\n\n  indented\ttabs",
    "a" * 50,
    "it's we'll 1234567 <|bos|> not special",
    "\r\n\r\n  x  ",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("export")
    write_tiny(folder, TEXTS * 5, n_merges=300)
    path = next(
        folder.glob("base_checkpoints/d20/model_*.pt")
    )  # a fresh model's logits are all zero: nothing to compare
    dice = torch.Generator().manual_seed(3)
    torch.save(
        {
            k: v + 0.05 * torch.randn(v.shape, generator=dice)
            for k, v in torch.load(path, weights_only=True).items()
        },
        path,
    )
    export(folder / "base_checkpoints/d20", folder / "tokenizer", folder / "hf")
    return folder, folder / "hf"


def test_the_class_of_transformers_gives_the_same_logits(exported: tuple[Path, Path]) -> None:
    folder, hf = exported
    theirs = transformers.NanoChatForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    ours = load(folder / "base_checkpoints/d20").model.eval()
    ours.load_state_dict({k: v.bfloat16().float() for k, v in ours.state_dict().items()})
    config = ours.config
    half = config.n_embd // config.n_head
    angle = torch.outer(
        torch.arange(ours.cos.size(1)).float(), 10_000 ** -(torch.arange(0, half, 2).float() / half)
    )
    ours.cos, ours.sin = (
        angle.cos()[None, :, None],
        angle.sin()[None, :, None],
    )  # the class keeps them in fp32
    ids = torch.randint(0, config.vocab_size, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = ours(ids).float()
        assert logits.std() > 0.1
        assert torch.allclose(theirs(ids).logits, logits, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_the_exported_tokenizer_gives_the_same_ids_and_text(
    exported: tuple[Path, Path], text: str
) -> None:
    folder, hf = exported
    theirs, ours = (
        transformers.AutoTokenizer.from_pretrained(hf),
        load_tokenizer(folder / "tokenizer"),
    )
    plain = text.replace("<|bos|>", "")  # inside text ours never makes specials; theirs would
    assert theirs.encode(plain, add_special_tokens=False) == ours.encode(plain)
    assert theirs.decode(ours.encode(plain), clean_up_tokenization_spaces=False) == plain


def test_the_chat_template_is_our_rendering(exported: tuple[Path, Path]) -> None:
    folder, hf = exported
    said = [
        ("system", "Be brief."),
        ("user", "Hello?"),
        ("assistant", "Hi."),
        ("user", "Bye"),
        ("assistant", "Bye!"),
    ]
    messages = [{"role": role, "content": text} for role, text in said]
    ids = transformers.AutoTokenizer.from_pretrained(hf).apply_chat_template(
        messages, tokenize=True, return_dict=False
    )
    assert ids == render({"messages": messages}, load_tokenizer(folder / "tokenizer"))[0]


def test_the_config_names_the_real_special_tokens_and_width(exported: tuple[Path, Path]) -> None:
    folder, hf = exported
    config, tokenizer = (
        json.loads((hf / "config.json").read_text()),
        load_tokenizer(folder / "tokenizer"),
    )
    assert (config["bos_token_id"], config["eos_token_id"]) == (
        tokenizer.bos,
        tokenizer.special("assistant_end"),
    )
    assert config["intermediate_size"] == 4 * config["hidden_size"]


def test_an_existing_folder_is_never_overwritten(exported: tuple[Path, Path]) -> None:
    folder, hf = exported
    with pytest.raises(UsageProblem, match="exists already"):
        export(folder / "base_checkpoints/d20", folder / "tokenizer", hf)


def test_the_command_says_what_it_wrote_and_refuses_two_targets(
    exported: tuple[Path, Path],
) -> None:
    folder, _ = exported
    given = [str(folder / "base_checkpoints/d20"), str(folder / "tokenizer")]
    env = dict(os.environ)
    done = script("export_hf", *given, "--to", str(folder / "again"), env=env, timeout=300)
    assert done.returncode == 0 and "model.safetensors" in done.stdout, done.stderr
    assert script("export_hf", *given, "x", "--to", "z", env=env).returncode == 2
    assert script("export_hf", *given, env=env).returncode == 2
