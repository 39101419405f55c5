"""Talk to a checkpoint: streaming, with the calculator, on a GPU or the CPU.

    python -m nanolan.model.chat CHECKPOINT_FOLDER TOKENIZER_FOLDER [--prompt TEXT] [--device cuda|mps|cpu]

Started by scripts/chat.py, so that the laptop's other commands need no torch.
"""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nanolan.errors import NanolanError
from nanolan.model.checkpoint import load
from nanolan.model.conversation import render_prompt
from nanolan.model.generation.engine import Engine, Row
from nanolan.model.generation.sampling import Sampling, uniforms
from nanolan.model.tokenizer import Tokenizer, load_tokenizer

SHOWN = {
    "python_start": "[",
    "python_end": "",
    "output_start": " = ",
    "output_end": "]",
}  # a calculator call in the text


class Chat:
    """A conversation in progress; the oldest exchanges are dropped when it no longer fits the model."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.messages: list[dict[str, str]] = []
        self.turn = 0

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` in pieces."""
        self.messages.append({"role": "user", "content": text})
        room = self.engine.room(self.sampling.max_new_tokens)
        while len(prompt := self._prompt()) > room and len(self.messages) > 1:
            del self.messages[:2]
        self.turn += 1
        answer = ""
        for piece in texts(
            stream(self.engine, prompt[-room:], self.sampling, self.turn), self.engine.tokenizer
        ):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer.strip() or "..."})

    def _prompt(self) -> list[int]:
        wanted: dict[str, Any] = {
            "messages": [*self.messages, {"role": "assistant", "content": ""}]
        }
        return render_prompt(wanted, self.engine.tokenizer, max_tokens=1 << 30)


@torch.inference_mode()
def stream(engine: Engine, prompt: Sequence[int], sampling: Sampling, key: int) -> Iterator[int]:
    """Yield the tokens of one completion; equal seed and key give equal draws."""
    row, sent = Row(prompt, uniforms(sampling.seed, key, 0, sampling.max_new_tokens)), 0
    flight = engine.flight(len(prompt), 1, sampling)
    flight.admit([row])
    while True:
        yield from row.ids[sent:]
        sent = len(row.ids)
        if row.done:
            return
        flight.advance()


def texts(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode tokens as they arrive; bytes of an incomplete character are held back."""
    special = {tokenizer.special(name): text for name, text in SHOWN.items()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i in ids:
        if i in special:
            yield special[i]
        elif piece := decoder.decode(tokenizer.bytes_of(i)):
            yield piece


def best_device() -> str:
    """cuda, mps or cpu: the best available."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def main(argv: list[str]) -> None:
    """Answer one prompt, or talk until an empty line, Ctrl-C or the end of the input."""
    ap = argparse.ArgumentParser(prog="chat")
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("tokenizer", type=Path)
    ap.add_argument("--prompt")
    ap.add_argument("--device", default=best_device())
    ap.add_argument("--temperature", type=float, default=0.6)
    ap.add_argument("--max-new-tokens", type=int, default=256)
    ap.add_argument("--seed", type=int, default=42)
    a = ap.parse_args(argv)
    engine = Engine(
        load(a.checkpoint, a.device).model.eval(), load_tokenizer(a.tokenizer), look_every=1
    )
    chat = Chat(
        engine,
        Sampling(max_new_tokens=a.max_new_tokens, temperature=a.temperature, top_k=50, seed=a.seed),
    )
    if a.prompt is not None:
        show(chat.say(a.prompt))
        return
    print(f"Talking to {a.checkpoint} on {a.device}. An empty line ends it.", file=sys.stderr)
    while text := input("\n> ").strip():
        show(chat.say(text))


def show(pieces: Iterator[str]) -> None:
    """Print pieces as they come, without control characters."""
    for piece in pieces:
        print(
            "".join(c if c.isprintable() or c == "\n" else " " for c in piece), end="", flush=True
        )
    print(flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyboardInterrupt, EOFError):
        print()
    except NanolanError as e:
        sys.exit(f"error: {e}")
