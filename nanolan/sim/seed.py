"""Fills a local Hub for a rehearsal: a tiny model repository, and the public data sets in their real schemas.

    seed(hub, "me/lanbot-checkpoints", cache=folder)

    <repo> (private)      base_checkpoints/<tag>/, mid_checkpoints/<tag>/, tokenizer/, identity_conversations.jsonl
    data sets (public)    the repositories and parquet paths of nanolan/phases.py

Every text is generated from a fixed seed. With `cache` the built files are kept, so that the next rehearsal
imports neither torch nor pyarrow.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from nanolan.checkpoint.manifest import MANIFEST, Manifest, hash_file
from nanolan.phases import DATASETS, IDENTITY_FILE
from nanolan.sim.hub.server import HubServer

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = {
    "smol-smoltalk": (500, 60),
    "mmlu": (300, 80),
    "gsm8k": (300, 60),
    "arc-easy": (120, 40),
    "arc-challenge": (80, 40),
    "humaneval": (0, 6),
    "mmlu-all": (300, 80),
}  # train and test rows per data set
IDENTITY_ROWS = 40
SHARD = "00000-of-00001"
HAND_MADE_RUN = "00000000"  # the run id of a checkpoint that was not made by a run

Message = dict[str, str]
Row = dict[str, Any]


def seed(hub: HubServer, repo: str, tag: str = "d20", cache: Path | None = None) -> None:
    """Put the model repository `repo` and the data sets on the Hub; `cache` keeps the built files."""
    with tempfile.TemporaryDirectory() as temp:
        built = _cached(cache, tag) if cache else _build(Path(temp) / "seed", tag)
        hub.put(repo, _files(built / "model"), message="checkpoints and tokenizer")
        for data_repo in sorted({d.repo for d in DATASETS.values()}):
            hub.put(data_repo, _files(built / "data" / data_repo), typ="dataset", private=False)


def _files(folder: Path) -> dict[str, bytes | Path]:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the files, built once


def _cached(cache: Path, tag: str) -> Path:
    """The built files, from the cache or built into it; safe for two processes at once."""
    target = cache / f"seed-{_key(tag)}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temp:
            built = _build(Path(temp) / "seed", tag)
            try:
                built.rename(target)
            except OSError:
                if not target.exists():  # not because another process was first
                    raise
    return target


def _key(tag: str) -> str:
    """A hash of the tag and of every source that the built files depend on."""
    here = Path(__file__)
    package = here.parent.parent
    sources = [
        here,
        package / "phases.py",
        package / "checkpoint" / "manifest.py",
        *sorted((package / "model").glob("*.py")),
        *sorted((package / "train").rglob("*.py")),
    ]
    digest = hashlib.sha256(tag.encode())
    for source in sources:
        digest.update(b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path, tag: str) -> Path:
    """Write everything below `folder`: model/ and data/<repo>/."""
    from nanolan.train.data.tiny_model import write_tiny  # imports torch

    model = folder / "model"
    texts = [m["content"] for row in smoltalk_rows(Random(0), 400) for m in row["messages"]]
    texts += [row[k] for row in gsm8k_rows(Random(0), 100) for k in ("question", "answer")]
    write_tiny(
        model,
        texts,
        tag=tag,
        n_merges=256,
        n_layer=2,
        n_embd=64,
        n_head=2,
        sequence_len=256,
        seed=0,
    )
    (model / IDENTITY_FILE).write_text(
        "".join(json.dumps(c) + "\n" for c in identity_conversations(Random(1)))
    )

    # Not a trained mid checkpoint but a copy of the base one, so that phase=sft has something to start from. It has a
    # manifest, as a run would write it; the base one has none, as if uploaded manually ("unproven").
    mid = model / "mid_checkpoints" / tag
    shutil.copytree(model / "base_checkpoints" / tag, mid)
    files = tuple(hash_file(p) for p in sorted(mid.iterdir()))
    step = json.loads(next(mid.glob("meta_*.json")).read_text())["step"]
    (mid / MANIFEST).write_text(Manifest(HAND_MADE_RUN, "mid", step, files).to_json())

    write_data(folder / "data", ROWS)
    return folder


def write_data(folder: Path, wanted: Mapping[str, tuple[int, int]]) -> None:
    """The data sets as parquet files, at the paths that nanolan/phases.py looks for, with the `wanted` numbers of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = _schemas()
    for number, (name, data) in enumerate(DATASETS.items()):
        for split, pattern, rows in zip(
            ("train", "test"), (data.train, data.test), wanted[name], strict=True
        ):
            path = folder / data.repo / pattern.replace("*", SHARD)
            if not pattern or path.exists():
                continue  # it has no such split, or another data set has the same file
            made = list(MAKERS[name](Random(f"{number}-{split}"), rows))
            schema = schemas[name]
            if pattern.startswith("auxiliary_train/"):  # each of its rows is wrapped once more
                made, schema = (
                    [{"train": row} for row in made],
                    pa.schema([("train", pa.struct(list(schema)))]),
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(made, schema=schema), path)


def _schemas() -> dict[str, pa.Schema]:
    """The columns of the real data sets."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    message = pa.struct([("content", text), ("role", text)])
    arc = pa.schema(
        [
            ("id", text),
            ("question", text),
            ("choices", pa.struct([("text", texts), ("label", texts)])),
            ("answerKey", text),
        ]
    )
    mmlu = pa.schema(
        [("question", text), ("subject", text), ("choices", texts), ("answer", pa.int64())]
    )
    return {
        "smol-smoltalk": pa.schema([("messages", pa.list_(message)), ("source", text)]),
        "mmlu": mmlu,
        "mmlu-all": mmlu,
        "gsm8k": pa.schema([("question", text), ("answer", text)]),
        "arc-easy": arc,
        "arc-challenge": arc,
        "humaneval": pa.schema(
            [
                (name, text)
                for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")
            ]
        ),
    }


# ---- the texts

NAMES = ("Ada", "Ben", "Chloe", "Dara", "Emil", "Fay", "Gus", "Hana")
THINGS = ("apples", "books", "coins", "shells", "stamps", "tickets")
COLOURS = {
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "the sky": "blue",
    "a lemon": "yellow",
    "blood": "red",
}
SOUNDS = {
    "dog": "barks",
    "cat": "meows",
    "cow": "moos",
    "duck": "quacks",
    "bee": "buzzes",
    "lion": "roars",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "early": "late",
    "full": "empty",
    "old": "new",
}
SYSTEMS = ("You answer in one short sentence.", "You are a patient teacher.")


def _fact(rng: Random) -> tuple[str, str, str, list[str]]:
    """A question, a sentence that answers it, the bare answer, and every answer of that kind."""
    kind, table, question, sentence = rng.choice(
        (
            ("colour", COLOURS, "What colour is {}?", "The colour of {} is {}."),
            ("sound", SOUNDS, "What does a {} do?", "A {} {}."),
            ("opposite", OPPOSITES, "What is the opposite of {}?", "The opposite of {} is {}."),
        )
    )
    key = rng.choice(list(table))
    return question.format(key), sentence.format(key, table[key]), table[key], list(table.values())


def smoltalk_rows(rng: Random, n: int) -> Iterator[Row]:
    """Conversations of one to three turns; some open with a system message."""
    for _ in range(n):
        messages: list[Message] = []
        if rng.random() < 0.2:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        for _ in range(rng.choice((1, 1, 2, 3))):
            question, sentence, _, _ = _fact(rng)
            messages += [
                {
                    "role": "user",
                    "content": f"{rng.choice(('', 'Please tell me: ', 'Hello! '))}{question}",
                },
                {"role": "assistant", "content": sentence},
            ]
        yield {"messages": messages, "source": "rehearsal"}


def gsm8k_rows(rng: Random, n: int) -> Iterator[Row]:
    """Sums with <<calculator=marks>> and a last line `#### n`, small enough that a tiny model solves some after its sft."""
    for _ in range(n):
        thing, a, b = rng.choice(THINGS[:2]), rng.randint(1, 3), rng.randint(1, 3)
        yield {
            "question": f"Ada has {a} {thing} and finds {b}. How many?",
            "answer": f"<<{a}+{b}={a + b}>>{a + b} {thing}.\n#### {a + b}",
        }


def mmlu_rows(rng: Random, n: int) -> Iterator[Row]:
    """Questions with four choices; the answer is the index of the right one."""
    for _ in range(n):
        question, choices, right = _choices(rng, 4)
        yield {
            "question": question,
            "subject": "everyday_facts",
            "choices": choices,
            "answer": right,
        }


def arc_rows(rng: Random, n: int) -> Iterator[Row]:
    """Questions with three to five choices, lettered, or (a few, as in the original) numbered."""
    for i in range(n):
        question, choices, right = _choices(rng, rng.choice((3, 4, 4, 4, 5)))
        labels = list(("12345" if rng.random() < 0.1 else "ABCDE")[: len(choices)])
        yield {
            "id": f"Rehearsal_{i}",
            "question": question,
            "choices": {"text": choices, "label": labels},
            "answerKey": labels[right],
        }


def humaneval_rows(rng: Random, n: int) -> Iterator[Row]:
    """Function heads to complete, with their tests."""
    for i in range(n):
        k = rng.randint(1, 9)
        test = f"def check(candidate):\n    assert candidate(2) == {2 + k}\n"
        yield {
            "task_id": f"Rehearsal/{i}",
            "prompt": f'def add_{k}(x):\n    """Add {k} to x."""\n',
            "entry_point": f"add_{k}",
            "canonical_solution": f"    return x + {k}\n",
            "test": test,
        }


def _choices(rng: Random, n: int) -> tuple[str, list[str], int]:
    question, _, answer, all_answers = _fact(rng)
    choices = [answer, *rng.sample([a for a in all_answers if a != answer], n - 1)]
    rng.shuffle(choices)
    return question, choices, choices.index(answer)


def identity_conversations(rng: Random) -> Iterable[list[Message]]:
    """Conversations about who the model is."""
    asks = (
        "Who are you?",
        "What is your name?",
        "Are you a person?",
        "Who made you?",
        "What can you do?",
    )
    answers = (
        "I am lanbot, a very small language model.",
        "My name is lanbot.",
        "No, I am lanbot, a program.",
        "I was trained in a rehearsal, from nothing but a seed.",
        "I can answer short questions.",
    )
    for i in range(IDENTITY_ROWS):
        greeting = rng.choice(("", "Hi! ", "Good morning. ", "Excuse me, "))
        turn = [
            {"role": "user", "content": greeting + asks[i % 5]},
            {"role": "assistant", "content": answers[i % 5]},
        ]
        question, sentence, _, _ = _fact(rng)
        more = [{"role": "user", "content": question}, {"role": "assistant", "content": sentence}]
        yield turn + (more if i % 2 else [])


MAKERS = {
    "smol-smoltalk": smoltalk_rows,
    "mmlu": mmlu_rows,
    "mmlu-all": mmlu_rows,
    "gsm8k": gsm8k_rows,
    "arc-easy": arc_rows,
    "arc-challenge": arc_rows,
    "humaneval": humaneval_rows,
}
