"""No file with a secret is sent: neither a known value in any encoding nor a text that looks like a key."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import re
import string
import tarfile
import zipfile
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.code.secret_scan import ALLOW, CLOSED, MOST_UNPACKED, UNSEEN, YOURS, Found, Scanner
from nanolan.redact import Secret

PASSWORD = "Pa55word"
ALNUM = string.ascii_letters + string.digits
# Put together here: this file is part of the code that is sent
VALUE = "".join(("kT9/", "w+Zq4RjM", '7vXb"2NcP'))
HEX40 = "0123456789abcdef" * 2 + "01234567"


def scan(data: bytes | str, *values: str, name: str = "nanolan/notes.py") -> Found | None:
    return Scanner(values).file(name, data.encode() if isinstance(data, str) else data)


def zipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", data)
    return packed.getvalue()


def tarred(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("inside.txt")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


FORMS: dict[str, Callable[[str], bytes]] = {
    "raw": str.encode,
    "in an address": lambda v: quote(v, safe="").encode(),
    "in JSON": lambda v: json.dumps({"key": v}).encode(),
    "in Python": lambda v: repr([v]).encode(),
    "base64": lambda v: base64.b64encode(v.encode()),
    "base64, one byte on": lambda v: base64.b64encode(b"x" + v.encode() + b"y"),
    "base64, two bytes on": lambda v: base64.b64encode(b"xy" + v.encode() + b"yz"),
    "base64 of addresses": lambda v: base64.urlsafe_b64encode(b"user:" + v.encode()),
    "base64 in short lines": lambda v: base64.encodebytes(b"x" * 50 + v.encode() * 3),
    "base64, twice": lambda v: base64.b64encode(b"x" + base64.b64encode(b"yz" + v.encode())),
    "base64 of UTF-16": lambda v: base64.b64encode(v.encode("utf-16")),
    "in an address, small letters": lambda v: re.sub(
        "%..", lambda m: m[0].lower(), quote(v, safe="")
    ).encode(),
    "in JSON, with strokes": lambda v: json.dumps(v).replace("/", "\\/").encode(),
    "hex": lambda v: v.encode().hex().encode(),
    "HEX": lambda v: v.encode().hex().upper().encode(),
    "UTF-16, little end first": lambda v: v.encode("utf-16-le"),
    "UTF-16, big end first": lambda v: v.encode("utf-16-be"),
    "UTF-16 with its mark": lambda v: v.encode("utf-16"),
    "UTF-32": lambda v: v.encode("utf-32"),
    "over two lines": lambda v: f"KEY = '{v[:9]}' \\\n      '{v[9:]}'".encode(),
    "added up": lambda v: f"key = '{v[:9]}' + '{v[9:]}'".encode(),
    "among bytes": lambda v: b"\x89PNG\r\n\x1a\n\xff\xfe" + v.encode() + b"\xff\x80",
    "gzip": lambda v: gzip.compress(v.encode()),
    "gzip that is cut off": lambda v: gzip.compress(v.encode() + bytes(range(256)) * 999)[:-40],
    "bzip2": lambda v: bz2.compress(v.encode()),
    "xz": lambda v: lzma.compress(v.encode()),
    "zip": lambda v: zipped(v.encode()),
    "tar.gz": lambda v: tarred(v.encode()),
    "zip in gzip in zip": lambda v: zipped(gzip.compress(zipped(v.encode()))),
    "gzip of UTF-16": lambda v: gzip.compress(v.encode("utf-16")),
}


ESCAPED: dict[str, Callable[[str], str]] = {
    "JSON codes": lambda v: "".join(f"\\u{ord(c):04x}" for c in v),
    "byte codes": lambda v: "".join(f"\\x{ord(c):02X}" for c in v),
    "an address, every letter": lambda v: "".join(f"%{ord(c):02x}" for c in v),
    "HTML numbers": lambda v: "".join(f"&#{ord(c)};" for c in v),
    "two lines of a notebook": lambda v: json.dumps({"source": [f"{v[:9]}\n", v[9:]]}, indent=1),
}


@pytest.mark.parametrize("form", ESCAPED)
def test_a_known_value_is_found_in_escapes(form: str) -> None:
    found = scan(ESCAPED[form](VALUE), VALUE)
    assert found is not None and found.what == YOURS and VALUE not in str(found)


def test_a_file_name_like_a_key_is_found_and_not_shown() -> None:
    name = f"nanolan/hf_{ALNUM}.py"
    found = next(Scanner([]).files({name: b""}))
    assert "a Hugging Face token" in str(found) and ALNUM not in str(found)


@pytest.mark.parametrize("form", FORMS)
def test_a_known_value_is_found_in_every_form(form: str) -> None:
    found = scan(FORMS[form](VALUE), VALUE)
    assert (
        found is not None
        and found.what == YOURS
        and VALUE not in str(found)
        and "nanolan/notes.py" in str(found)
    )
    assert scan(FORMS[form](VALUE[::-1]), VALUE) is None


@given(
    key=st.text(st.characters(min_codepoint=48, max_codepoint=57), min_size=12, max_size=60),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
)
def test_a_known_value_is_found_in_any_context(key: str, before: bytes, after: bytes) -> None:
    assert scan(before + key.encode() + after, key)
    assert scan(base64.b64encode(before + key.encode() + after), key)


# The parts are put together when the test runs, so that no line here has the shape of a key
SHAPES = {
    "Hub token": "hf_" + ALNUM[:34],
    "Hub organisation token": "api_org_" + ALNUM[:34],
    "OpenAI": "sk-" + ALNUM[20:] + "4T3BlbkFJ" + ALNUM[:20],
    "OpenAI project": "sk-proj-" + ALNUM[:30] + "_-" + ALNUM[30:60],
    "Anthropic": "sk-ant-api03-" + ALNUM * 2,
    "wandb in a shell": "export WANDB_API_KEY=" + HEX40,
    "wandb in Python": f"wandb.login(key='{HEX40}')",
    "wandb, its new keys": "wandb_v1_" + ALNUM,
    "wandb in netrc": f"machine api.wandb.ai\n  login user\n  password {HEX40}",
    "netrc": "machine example.org login me password " + "hunter2hunter2",
    "netrc, default": "default login me password " + "hunter2hunter2",
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "AWS, for a while": "ASIA" + "IOSFODNN7EXAMPLE",
    "AWS secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "GitHub": "ghp_" + ALNUM[:36],
    "GitHub, of an app": "ghs_" + ALNUM[:36],
    "GitHub, fine-grained": "github_pat_" + ALNUM[:22] + "_" + ALNUM[:59],
    "GitLab": "glpat-" + ALNUM[:20],
    "Slack": "xoxb-" + "123456789012-1234567890123-" + ALNUM[:24],
    "Slack, of an app": "xapp-" + "1-A0123-456-abcdef",
    "Slack hook": "https://hooks.slack.com/services/" + "T01234567/B01234567/" + ALNUM[:24],
    "Discord hook": "https://discord.com/api/webhooks/" + "123456789012345678/" + ALNUM,
    "Google": "AIza" + ALNUM[:35],
    "npm": "//registry.npmjs.org/:_authToken=npm_" + ALNUM[:36],
    "PyPI": "pypi-" + "AgEIcHlwaS5vcmc" + ALNUM,
    "Stripe": "sk_live_" + ALNUM[:24],
    "Telegram": "123456789:" + "AA" + ALNUM[:33],
    "JWT": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NSJ9." + ALNUM[:30],
    "OpenSSH": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNz\n",
    "RSA": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "PKCS 8": "-----BEGIN " + "PRIVATE KEY-----",
    "PKCS 8, locked": "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----",
    "PGP": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
    "PuTTY": "PuTTY-User-Key-File-" + "3: ssh-ed25519",
    "age": "AGE-SECRET-KEY-1" + "Q" * 58,
    "a login in an address": "https://me:" + "s3cret-pass" + "@git.example.org/x",
    "curl, Shadeform": "curl -H 'X-API-KEY: "
    + ALNUM[:20]
    + "1' https://api.shadeform.ai/v1/instances",
    "curl, the Hub": "curl -H 'Authorization: Bearer " + ALNUM[:20] + "1'",
    "shell": "export SHADEFORM_API_KEY=" + ALNUM[:20] + "1",
    "YAML": "SHADEFORM_API_KEY_BOX: '" + ALNUM[:20] + "1'",
    "Shadeform's header as it is usually spelled": "X-Api-Key: " + ALNUM[:20] + "1",
    "its header in small letters": "x-api-key=" + ALNUM[:20] + "1",
    "wandb in a title": "Wandb api_key " + HEX40,
    "BEARER": "AUTHORIZATION: BEARER " + ALNUM[:20] + "1",
    "NETRC": "MACHINE EXAMPLE.ORG LOGIN ME PASSWORD " + "HUNTER2HUNTER2",
    "Python, small letters": 'shadeform_api_key="' + ALNUM[:20] + '1"',
    "YAML, small letters": "shadeform_api_key: " + ALNUM[:20] + "1",
    "another name of Shadeform's": "SHADEFORM_KEY=" + ALNUM[:20] + "1",
    "another name of the Hub's": "HUGGINGFACE_TOKEN=" + ALNUM[:20] + "1",
    "LangChain's name of it": "HUGGINGFACEHUB_API_TOKEN=" + ALNUM[:20] + "1",
    "RunPod": "rpa_" + ALNUM[26:].upper() + "0123456789",
    "Replicate": "r8_" + ALNUM[:37],
    "DigitalOcean": "dop_v1_" + HEX40 + HEX40[:24],
    "SendGrid": "SG." + ALNUM[:22] + "." + ALNUM[:43],
    "Azure": "DefaultEndpointsProtocol=https;AccountKey=" + (ALNUM * 2)[:86] + "==",
    "Lambda": "LAMBDA_API_KEY=secret_" + ALNUM[:20] + "1." + ALNUM[:20],
    "Vast": 'VAST_API_KEY="' + HEX40 + HEX40[:24] + '"',
    "aws, title": "Aws_Secret_Access_Key: " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "JSON": '{"HF_TOKEN": "' + ALNUM[:20] + '1"}',
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "coded",
    [str.encode, lambda t: t.encode("utf-16"), lambda t: gzip.compress(t.encode())],
    ids=["text", "UTF-16", "gzip"],
)
def test_patterns_of_keys_are_found(kind: str, coded: Callable[[str], bytes]) -> None:
    found = scan(coded(f"one\ntwo {SHAPES[kind]}\n"))
    assert (
        found is not None and "holds what looks like" in str(found) and ALNUM[:20] not in str(found)
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_an_allowed_line_is_exempt_unless_the_value_is_known(kind: str) -> None:
    marked = "\n".join(f"{line}  # {ALLOW.decode()}" for line in SHAPES[kind].splitlines())
    assert scan(marked) is None
    assert scan(f"{VALUE} # {ALLOW.decode()}", VALUE)


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download(repo)",
        "hf_transfer",
        "HF_TOKEN=",
        "HF_TOKEN=hf_...",
        "export HF_TOKEN=$MY_TOKEN",
        "task-oriented-dialogue-2024",
        "risk-assessment-of-language-models-2",
        "sha256:" + HEX40,
        f"commit {HEX40}",
        "token = settings.hf_token.reveal()",
        '{"SHADEFORM_API_KEY": self.cloud.key}',
        "https://user:password@host/",
        "machine {host} login user password {key}",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
        "Authorization: Bearer {token}",
        "xoxo",
        "PRIVATE KEY",
        "shadeform_api_key=settings.shadeform_api_key_of_2",
        "hf_token = read_token_of_profile_2(path)",
        "wandb_api_key: Secret | None",
        "SHADEFORM_KEY=your-key-goes-in-here",
        "x-api-key: {settings.shadeform_api_key}",
        "lambda_key = operator.itemgetter(12)",
        "the bearer of these bad news arrived",
        "r8_model, rpa_2, dop_v1_test",
    ],
    ids=lambda t: t[:24],
)
def test_ordinary_code_and_examples_are_not_keys(text: str) -> None:
    assert scan(text) is None


@pytest.mark.parametrize(
    "value", ["password", "lanbot", "hunter2", "secret-word", "notify", "hf_only-the-token"]
)
def test_a_secret_that_is_an_ordinary_word_is_not_searched(value: str) -> None:
    assert scan(f"a {value} b", value) is None


def test_a_short_value_is_found_as_a_whole_word() -> None:
    assert scan("pw: hunter22!", "hunter22") and scan("pw: xhunter220", "hunter22") is None


def test_the_token_of_an_address_is_found_alone_too() -> None:
    url = "slack://T0/B0/" + ALNUM[:24] + "0 ntfy://lanbot-checkpoints-all"
    assert (
        scan(ALNUM[:24] + "0", url)
        and scan("lanbot-checkpoints-all", url) is None
        and scan("x ntfy://lanbot-checkpoints-all", url)
    )


def test_the_line_is_named_and_a_path_with_a_secret_is_not() -> None:
    assert str(scan(f"one\ntwo\n{VALUE}\n", VALUE)) == f"nanolan/notes.py, line 3 holds {YOURS}"
    found = list(Scanner([VALUE]).files({f"nanolan/{VALUE}.py": b""}))
    assert len(found) == 1 and VALUE not in str(found[0])


@pytest.mark.parametrize(
    "url", [f"mailto://me:{PASSWORD}@example.org", f"json://me:{PASSWORD}@example.org/x"]
)
def test_the_password_of_an_address_is_found_alone_too(url: str) -> None:
    assert scan(f"password: {PASSWORD}", url) and scan("example.org", url) is None


def locked() -> bytes:
    packed = bytearray(zipped(b"x"))
    for at in (packed.index(b"PK\x03\x04") + 6, packed.index(b"PK\x01\x02") + 8):
        packed[at] |= 1
    return bytes(packed)


def nested(deep: int) -> bytes:
    data = b"x"
    for _ in range(deep):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(bytes(MOST_UNPACKED + 1)),
        zipped(bytes(MOST_UNPACKED + 1)),
        locked(),
        nested(9),
        zipped(b"7z\xbc\xaf\x27\x1c"),
        *CLOSED,
    ],
    ids=["gzip bomb", "zip bomb", "locked", "packed nine times", "7z in zip", *map(repr, CLOSED)],
)
def test_content_that_cannot_be_searched_is_reported(data: bytes) -> None:
    assert str(scan(data)) == f"nanolan/notes.py holds {UNSEEN}"


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"PK\x03\x04", b"PK\x05\x06"]),
)
def test_no_bytes_break_the_scan(data: bytes, magic: bytes) -> None:
    Scanner([VALUE]).file("x", magic + data)


def test_without_values_it_searches_for_all_known_secrets() -> None:
    Secret(VALUE)
    assert Scanner().file("x", VALUE.encode())
