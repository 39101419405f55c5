"""Identity data: different, checked conversations; an endpoint's answers are never trusted."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.checkpoint.conversations import read_conversations
from nanolan.errors import AuthProblem, BadAnswer, UsageProblem
from nanolan.identity import (
    MOST_NAMED,
    Endpoint,
    Identity,
    check,
    estimate,
    from_endpoint,
    from_file,
    from_templates,
)
from nanolan.redact import Secret
from tests.support.conversation_forms import HI, SHAREGPT, lines, turns

ROOT = Path(__file__).resolve().parent.parent
WHO = Identity("Lanbot", "Gleb", "dry and kind")
GOOD = json.dumps(
    [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Lanbot."}]
)


def test_the_templates_give_different_conversations_that_all_pass_the_check() -> None:
    made = from_templates(WHO, 1000)
    assert len({json.dumps(m) for m in made}) == 1000
    text = json.dumps([check(m) for m in made])
    assert (
        "Lanbot" in text
        and "Gleb" in text
        and "dry and kind" in text
        and "{" not in json.loads(text)[0][1]["content"]
    )


def test_the_same_seed_gives_the_same_file() -> None:
    assert (
        from_templates(WHO, 50, seed=1)
        == from_templates(WHO, 50, seed=1)
        != from_templates(WHO, 50, seed=2)
    )


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 301, "\x1b[31m"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(UsageProblem, match="name must be"):
        Identity(name, "Gleb")


def test_braces_in_a_name_are_text() -> None:
    assert "{name}" in json.dumps(from_templates(Identity("{name}", "{0.__class__}"), 200))


def said(*pairs: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    "messages",
    [
        None,
        {},
        [],
        ["x", "y"],
        said(("user", "x")),
        said(("assistant", "x"), ("user", "y")),
        said(("user", ""), ("assistant", "y")),
        said(("user", 1), ("assistant", "y")),
        said(("user", "x" * 30_000), ("assistant", "y")),
    ],
)
def test_what_is_no_conversation_is_refused(messages: object) -> None:
    with pytest.raises(BadAnswer):
        check(messages)


@pytest.fixture
def endpoint() -> Iterator[tuple[Endpoint, list[tuple[int, object]]]]:
    """A local endpoint that gives the answers put in the list, the last one again and again."""
    answers: list[tuple[int, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield (
        Endpoint(f"http://127.0.0.1:{server.server_port}", "some/model", Secret("sk-canary-1234")),
        answers,
    )
    server.shutdown()
    server.server_close()


def reply(text: object) -> tuple[int, object]:
    return 200, {"choices": [{"message": {"content": text}}]}


def test_answers_are_checked_and_bad_ones_skipped_with_their_number(
    endpoint: tuple[Endpoint, list[tuple[int, object]]],
) -> None:
    where, answers = endpoint
    answers += [
        reply(f"Sure! ```json\n{GOOD}\n```"),
        reply("no json here"),
        reply("[1, 2]"),
        (200, "<html>"),
        (500, {}),
        reply(None),
        reply(GOOD),
    ]
    lines: list[str] = []
    assert len(list(from_endpoint(WHO, 8, where, 1, lines.append))) == 3
    assert [s.split(":")[0] for s in lines] == [
        f"conversation {n} skipped" for n in (2, 3, 4, 5, 6)
    ]


def test_ten_bad_answers_in_a_row_end_it_and_a_refused_key_at_once(
    endpoint: tuple[Endpoint, list[tuple[int, object]]],
) -> None:
    where, answers = endpoint
    answers.append(reply("nothing"))
    with pytest.raises(BadAnswer, match="ten answers in a row"):
        list(from_endpoint(WHO, 1000, where, 1, lambda _: None))
    answers[0] = (401, {})
    with pytest.raises(AuthProblem) as e:
        list(from_endpoint(WHO, 5, where, 1, lambda _: None))
    assert "canary" not in str(e.value)


def test_the_price_is_said_or_said_to_be_unknown() -> None:
    assert estimate(1000, 0.5) == "1000 requests, about 800,000 tokens: about $0.40"
    assert "price unknown" in estimate(10, None)


def test_the_command_writes_a_file_that_the_trainer_reads_and_never_overwrites_one(
    tmp_path: Path,
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(ROOT / "scripts/identity.py"),
            "name=Lan bot",
            "creator=$(id)",
            *words,
        ]
        env = {k: v for k, v in os.environ.items() if "KEY" not in k}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)

    assert run("count=50", "--dry-run").returncode == 0 and not list(tmp_path.iterdir())
    assert run("count=50").returncode == 0
    conversation = pytest.importorskip("nanolan.model.conversation")
    assert len(conversation.read_jsonl(tmp_path / "identity_conversations.jsonl")) == 50
    again = run("count=50")
    assert again.returncode == 2 and "exists already" in again.stderr
    assert run("model=a/b", "to=x.jsonl").returncode == 4  # no key: nobody is asked


def convert(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/identity.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_file_of_another_program_is_converted_and_what_is_left_out_is_named(
    tmp_path: Path,
) -> None:
    bad = [{"prompt": "", "completion": "x"}] * (MOST_NAMED + 2)
    good = [SHAREGPT, {"instruction": "Hi", "input": "", "output": "Yo"}]
    (tmp_path / "mine.json").write_bytes(lines(*bad, *good))
    shown = convert(tmp_path, "from=mine.json", "--dry-run")
    assert shown.returncode == 0 and "2 conversations can be converted" in shown.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]
    done = convert(tmp_path, "--from", "mine.json")
    assert done.returncode == 0 and "2 conversations. Upload it" in done.stdout
    left = done.stderr.splitlines()
    assert "mine.json, line 1: message 1 is empty" in left[0] and left[-1] == "left out: 2 more"
    assert len(left) == MOST_NAMED + 1
    found = read_conversations(tmp_path / "identity_conversations.jsonl")
    assert found == [HI, turns("Hi", "Yo")]


@pytest.mark.parametrize(
    ("file", "words", "why"),
    [
        (lines(SHAREGPT, b"{"), (), "mine.json, line 2: not JSON"),
        (lines({"text": "x"}), (), "no conversation in it that can be rewritten"),
        (lines(SHAREGPT).decode().encode("utf-16"), (), "UTF-16"),
        (lines(SHAREGPT), ("name=x",), "leave out name="),
        (lines(SHAREGPT), ("to=none/x",), "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_converted_leaves_nothing_behind(
    file: bytes, words: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_bytes(file)
    done = convert(tmp_path, "from=mine.json", *words)
    assert done.returncode in (1, 2) and why in done.stderr.replace("\n", " ")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]


def test_without_a_name_or_a_file_the_command_says_what_to_give(tmp_path: Path) -> None:
    done = convert(tmp_path, "name=Lanbot")
    assert done.returncode == 2 and "--from FILE" in done.stderr


def test_a_converted_file_names_what_it_leaves_out_and_advises_no_second_conversion(
    tmp_path: Path,
) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    values = [
        {"instruction": "When?", "context": "In 2015.", "response": "2015", "category": "qa"},
        {"instruction": "Who?", "response": "Me", "category": "qa"},
        {"prompt": "Hi", "completion": "Go away", "label": False},
        {"question": "2+3?", "choices": ["4", "5"], "answer": "B"},
        {"messages": [{"role": "user", "content": [image]}, {"role": "assistant", "content": "?"}]},
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(v) + "\n" for v in values))
    said: list[str] = []
    found = list(from_file(file, said.append))
    assert [m[0]["content"] for m in found] == ["When?\n\nIn 2015.", "Who?"]
    told = "\n".join(said)
    assert told.count("category is no part of a conversation") == 1 and "just identity" not in told
    for line, why in ((3, "its label is false"), (4, "choices to choose"), (5, "in parts")):
        assert re.search(rf"left out: \S+, line {line}: .*{why}", told)
