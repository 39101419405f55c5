"""A mistake in .env is an error with file and line; it never means the default, and no value is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.errors import UsageProblem
from nanolan.settings.env_lines import nearest, read_env
from nanolan.settings.load import load_settings, usable_settings
from nanolan.settings.settings import FIELDS
from tests.support.core_fixtures import script

WRONG = [
    ("a colon", "SPEND_LIMIT: 40", 1, "write SPEND_LIMIT=value"),
    ("a colon and an equals sign", "SPEND_LIMIT:=40", 1, "SPEND_LIMIT"),
    ("a dash", "SPEND-LIMIT=40", 1, "called SPEND_LIMIT"),
    ("a dot", "SPEND.LIMIT=40", 1, "called SPEND_LIMIT"),
    ("a blank in the name", "SPEND LIMIT=40", 1, "no assignment"),
    ("lower case", "spend_limit=40", 1, "called SPEND_LIMIT"),
    ("mixed case", "Spend_Limit=40", 1, "called SPEND_LIMIT"),
    ("as a flag", "--spend-limit=40", 1, "called SPEND_LIMIT"),
    ("no underscore", "SPENDLIMIT=40", 1, "called SPEND_LIMIT"),
    ("a letter missing", "SPEND_LIMT=40", 1, "called SPEND_LIMIT"),
    ("letters swapped", "SPEND_LIMTI=40", 1, "called SPEND_LIMIT"),
    ("a letter too many", "SPEND_LIMITS=40", 1, "called SPEND_LIMIT"),
    ("the wrong form", "SPENDING_LIMIT=40", 1, "called SPEND_LIMIT"),
    ("its unit in the name", "SPEND_LIMIT_USD=40", 1, "called SPEND_LIMIT"),
    ("our name in front", "NANOLAN_SPEND_LIMIT=40", 1, "called SPEND_LIMIT"),
    ("a Cyrillic letter", "SPEND_L\u0406MIT=40", 1, "called SPEND_LIMIT"),
    (
        "full-width letters",
        "\uff33\uff30\uff25\uff2e\uff24_\uff2c\uff29\uff2d\uff29\uff34=40",
        1,
        "called SPEND_LIMIT",
    ),
    ("as in PowerShell", "$env:SPEND_LIMIT=40", 1, "called SPEND_LIMIT"),
    ("another word for it", "MAX_SPEND=40", 1, "called SPEND_LIMIT"),
    ("yet another word for it", "SPEND_CAP=40", 1, "called SPEND_LIMIT"),
    ("a zero-width blank", "\u200bSPEND_LIMIT=40", 1, "called SPEND_LIMIT"),
    ("a wide equals sign", "SPEND_LIMIT\uff1d40", 1, "no assignment"),
    ("a comment of another language", "//SPEND_LIMIT=40", 1, "called SPEND_LIMIT"),
    (
        "export without an equals sign",
        "GPU=H100\n\nexport SPEND_LIMIT 40",
        3,
        "write SPEND_LIMIT=value",
    ),
    ("set", "set SPEND_LIMIT=40", 1, "no assignment"),
    ("a name alone", "GPU=H100\nSPEND_LIMIT\n", 2, "write SPEND_LIMIT=value"),
    ("a list of YAML", "- SPEND_LIMIT=40", 1, "no assignment"),
    ("JSON", '{"SPEND_LIMIT": 40}', 1, "no assignment"),
    ("a heading", "[nanolan]\nSPEND_LIMIT=40", 1, "no assignment"),
    ("its value in the next line", "PROBATION_USD=2\nSPEND_LIMIT=\n40", 3, "no assignment"),
    (
        "a quote that is open",
        'A=1\r\n\r\nSPEND_LIMIT="40\r\n',
        3,
        "write SPEND_LIMIT=value and close every quote",
    ),
    (
        "an open quote that ends in a later one",
        'NOTE="mine\nSPEND_LIMIT=40\nOTHER="',
        1,
        "SPEND_LIMIT is set inside",
    ),
    (
        "an open quote with a wrong name inside",
        "NOTE='mine\nexport SPENDLIMIT=40\nOTHER='",
        1,
        "SPENDLIMIT is set inside",
    ),
    ("two on a line", "CLOUD=hyperstack SPEND_LIMIT=40", 1, "SPEND_LIMIT is set inside"),
    ("two on a line, another tool's first", "FOO=1 SPEND_LIMIT=40", 1, "SPEND_LIMIT is set inside"),
    (
        "given twice",
        "SPEND_LIMIT=40\nGPU=H100\nSPEND_LIMIT=150",
        3,
        "has another value in line 1",
    ),
    ("a NUL", "GPU=H100\nSPEND_LIMIT=4\x000", 2, "a control character"),
    ("old Mac line ends", "GPU=H100\rSPEND_LIMIT: 40\r", 2, "write SPEND_LIMIT=value"),
    ("a value of another currency", "GPU=H100\nSPEND_LIMIT=40$", 2, "is not an amount in dollars"),
    ("a value with a unit", "\n\nSPEND_LIMIT=40 dollars", 3, "is not an amount in dollars"),
    ("a value with a decimal comma", "SPEND_LIMIT=40,5", 1, "is not an amount in dollars"),
    ("a value with a semicolon", "SPEND_LIMIT=40;", 1, "is not an amount in dollars"),
    ("a comment without a blank", "SPEND_LIMIT=40#mine", 1, "is not an amount in dollars"),
    ("curly quotes", "SPEND_LIMIT=\u201c40\u201d", 1, "is not an amount in dollars"),
    ("a variable", "SPEND_LIMIT=${BUDGET}", 1, "is not an amount in dollars"),
    ("nothing", "SPEND_LIMIT=", 1, "it is empty"),
    ("a comment alone", "SPEND_LIMIT= # 40", 1, "it is empty"),
]
RIGHT = [
    ("blanks around", " SPEND_LIMIT = 40 "),
    ("a comment behind", "SPEND_LIMIT=40 # mine"),
    ("a dollar sign", "SPEND_LIMIT=$40"),
    ("exported", "export SPEND_LIMIT=40"),
    ("quoted", 'SPEND_LIMIT="40"'),
    ("cents", "SPEND_LIMIT=40.00"),
    ("CRLF and a mark of order", "\ufeffSPEND_LIMIT=40\r\nGPU=H100\r\n"),
    ("old Mac line ends", "GPU=H100\rSPEND_LIMIT=40\r"),
    ("two marks of order", "\ufeff\ufeffSPEND_LIMIT=40"),
    ("twice the same", "SPEND_LIMIT=40\nSPEND_LIMIT=40"),
    ("filled in below", "GPU=\nGPU=H100\nSPEND_LIMIT=40"),
    ("a comment of an example before", "#SPEND_LIMIT=150\n\n  # SPEND_LIMIT: 12\nSPEND_LIMIT=40\n"),
    (
        "another tool's key of many lines",
        'KEY="-----BEGIN\nabc=\nGPU/x=\n-----END"\nSPEND_LIMIT=40',
    ),
    ("another tool's text with the word", 'CMD="just launch SPEND_LIMIT=9"\nSPEND_LIMIT=40'),
]
OTHERS = [
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "PATH",
    "PYTHONPATH",
    "HOME",
    "USER",
    "LANG",
    "EDITOR",
    "CUDA_VISIBLE_DEVICES",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "ANTHROPIC_API_KEY",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_HUB_CACHE",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "HF_TOKEN_PATH",
    "HF_TOKEN_OLD",
    "HF_TOKEN_2",
    "SHADEFORM_API_KEY_OLD",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_ENTITY",
    "WANDB_MODE",
    "WANDB_NAME",
    "WANDB_DIR",
    "NANOCHAT_BASE_DIR",
    "NANOLAN_HOME",
    "NANOLAN_ENV_FILE",
    "OMP_NUM_THREADS",
    "NUM_WORKERS",
    "NUM_CPUS",
    "NUM_PROC",
    "BATCH_SIZE",
    "GPU_TYPE",
    "GPU_MEMORY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "DATABASE_URL",
    "POSTGRES_PASSWORD",
    "PORT",
    "HOST",
    "DEBUG",
    "LOG_LEVEL",
    "MODEL",
    "MODEL_NAME",
    "MODEL_ID",
    "RUN_ID",
    "RUN_DIR",
    "PHASE",
    "SEED",
    "MAX_TOKENS",
    "MAX_TOTAL_TOKENS",
    "MAX_LENGTH",
    "SSH_AUTH_SOCK",
    "SSH_KEY",
    "CLOUDSDK_CONFIG",
    "GCLOUD_PROJECT",
    "GOOGLE_CLOUD_PROJECT",
    "REGION_NAME",
    "LIMIT",
    "SPEND",
    "BUDGET",
    "DATE",
    "RATE",
    "TOKEN",
    "API_KEY",
    "OWNER",
    "NODE_ENV",
    "VIRTUAL_ENV",
    "TZ",
    "PS1",
    "LC_ALL",
    "OPENAI_SPEND_LIMIT",
    "EVAL_STEPS",
    "EVALUATE",
    "SAVE_STEPS",
    "UPLOAD_DIR",
]


def env(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / ".env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "line", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_misspelt_limit_is_refused_with_file_and_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    path = env(tmp_path, text)
    with pytest.raises(UsageProblem) as e:
        load_settings({}, {}, env_file=path)
    assert (
        f"{path} line {line}" in str(e.value) and says in str(e.value) and "\n" not in str(e.value)
    )


@pytest.mark.parametrize("text", [r[1] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_the_usual_ways_to_write_a_limit_work(tmp_path: Path, text: str) -> None:
    assert load_settings({}, {}, env_file=env(tmp_path, text)).spend_limit == 4_000


@pytest.mark.parametrize("name", FIELDS)
def test_misspellings_of_every_setting_are_recognised(name: str) -> None:
    longer = [f"{name}S", name[:-1] + name[-1] * 2] if len(name) > 4 else []
    for wrong in (
        name.lower(),
        name.title(),
        name.replace("_", "-"),
        name.replace("_", ""),
        f"${name}",
        f"{name}:",
        *longer,
    ):
        assert wrong == name or nearest(wrong, list(FIELDS)), wrong
    assert nearest(name, list(FIELDS)) == ""


@pytest.mark.parametrize("name", OTHERS)
def test_variables_of_other_tools_are_allowed(tmp_path: Path, name: str) -> None:
    path = env(tmp_path, f"{name}=some thing\nexport {name}_X='a'\n")
    assert read_env(path, FIELDS).problems == () and load_settings({}, {}, env_file=path)


@pytest.mark.parametrize(
    "text",
    [
        "hf_S3CRET",
        "HF_TOKEN: hf_S3CRET",
        "HF-TOKEN=hf_S3CRET",
        'HF_TOKEN="hf_S3CRET',
        "HF_TOKEN=a\nHF_TOKEN=hf_S3CRET",
        "SHADEFORM_API_KEY=S3CRET two",
        'X="\nHF_TOKEN=hf_S3CRET\n"',
        "NOTIFY_URL=S3CRET",
        "HF_TOKEN='hf_S3CRET''",
        "HF_ENDPOINT=https://me:S3CRET@huggingface.co",
        "HF_TOKEN=HF_TOKEN=S3CRET",
    ],
)
def test_no_error_shows_a_value(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageProblem) as e:
        load_settings({}, {}, env_file=env(tmp_path, text))
    assert "S3CRET" not in str(e.value)


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "pipe",
        "link to nowhere",
        "link to itself",
        "unreadable",
        "UTF-16",
        "UTF-16 without a mark",
        "Latin-1",
        "megabyte",
    ],
)
def test_an_unreadable_env_file_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    text = "SPEND_LIMIT=40\n"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to nowhere": lambda: path.symlink_to("gone"),
        "link to itself": lambda: path.symlink_to(path),
        "unreadable": lambda: env(tmp_path, text).chmod(0),
        "UTF-16": lambda: env(tmp_path, text.encode("utf-16")),
        "UTF-16 without a mark": lambda: env(tmp_path, text.encode("utf-16-le")),
        "Latin-1": lambda: env(tmp_path, (text + "# Gr\u00fc\u00dfe").encode("latin-1")),
        "megabyte": lambda: env(tmp_path, text + "#" * (1 << 20)),
    }
    make[kind]()
    if kind == "unreadable" and os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(UsageProblem, match=str(path)):
        load_settings({}, {}, env_file=path)
    assert usable_settings({}, {}, path, lambda: None)[1], "doctor and stop report it, too"


def test_a_missing_file_and_the_null_device_set_nothing(tmp_path: Path) -> None:
    for path in (None, tmp_path / ".env", Path(os.devnull)):
        assert read_env(path, FIELDS).values == {}


@given(st.text(max_size=60), st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_line_before_the_limit_changes_it_only_with_an_error(
    tmp_path_factory: pytest.TempPathFactory, before: str, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "law.env"
    path.write_text(
        f"{before}{end}SPEND_LIMIT=40{end}", encoding="utf-8", errors="replace", newline=""
    )
    try:
        assert load_settings({}, {}, env_file=path).spend_limit == 4_000
    except UsageProblem:
        pass


def test_stop_works_with_a_broken_env_file_and_launch_does_not(tmp_path: Path) -> None:
    path = env(tmp_path, "SPEND_LIMIT: 40\n")
    path.chmod(0o600)
    given = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_HOME": str(tmp_path),
        "NANOLAN_ENV_FILE": str(path),
    }
    stop, dry = script("stop", env=given), script("launch", "--dry-run", env=given)
    assert dry.returncode == 2 and f"error: {path} line 1: no assignment" in dry.stderr
    assert (
        stop.returncode == 4
        and f"note: not used: {path} line 1" in stop.stderr
        and "SHADEFORM_API_KEY is not set" in stop.stderr
    )
    gone = script("launch", "--dry-run", env=given | {"NANOLAN_ENV_FILE": f"{path}s"})
    assert gone.returncode == 2 and "NANOLAN_ENV_FILE (environment)" in gone.stderr
