"""The patterns of keys that nanolan/code/secret_scan.py searches for.

A row is a description, a text that every match contains, and the pattern. That text is searched first, which is fast; a pattern
that begins with a literal is fast, too, since it is searched as often as an ordinary file contains the text.
"""

from __future__ import annotations

Shape = tuple[str, bytes, bytes]

# As services write their keys
SHAPES: tuple[Shape, ...] = (
    ("a Hugging Face token", b"hf_", rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{20,}"),
    ("a Hugging Face token", b"api_org_", rb"(?<![A-Za-z0-9_])api_org_[A-Za-z0-9]{20,}"),
    ("a private key", b"PRIVATE KEY", rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"),
    ("a private key", b"PuTTY-User-Key-File-", rb"PuTTY-User-Key-File-\d"),
    ("a private key", b"AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
    ("an API key", b"sk-", rb"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{20,}"),
    ("a wandb key", b"wandb_v1_", rb"wandb_v1_[A-Za-z0-9_]{30,}"),
    (
        "a login",
        b"://",
        rb"[a-z][a-z0-9+.-]*://[^\s/:@\"'{}<>$*]+:(?=[^\s/@]*[0-9])[^\s/:@\"'{}<>$*]{8,}@",
    ),
    ("an AWS key", b"KIA", rb"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])"),
    ("an AWS key", b"ASIA", rb"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Z0-9])"),
    *(
        ("a GitHub token", b"gh%c_" % kind, rb"(?<![A-Za-z0-9_])gh[pousr]_[A-Za-z0-9]{30,}")
        for kind in b"pousr"
    ),
    ("a GitHub token", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{22,}"),
    ("a GitLab token", b"glpat-", rb"glpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", b"xox", rb"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Slack token", b"xapp-", rb"xapp-\d-[A-Za-z0-9-]{10,}"),
    (
        "a webhook",
        b"hooks.slack.com",
        rb"hooks\.slack\.com/(?:services|workflows)/T\w+/\w+/\w{16,}",
    ),
    ("a webhook", b"/api/webhooks/", rb"discord(?:app)?\.com/api/webhooks/\d+/[\w-]{30,}"),
    ("a Google key", b"AIza", rb"AIza[0-9A-Za-z_-]{35}"),
    ("a Google token", b"ya29.", rb"ya29\.[0-9A-Za-z_-]{30,}"),
    ("an npm token", b"npm_", rb"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}"),
    ("a PyPI token", b"pypi-AgE", rb"pypi-AgE[A-Za-z0-9_-]{50,}"),
    ("a Stripe key", b"k_live_", rb"[sr]k_live_[A-Za-z0-9]{16,}"),
    ("a Telegram token", b":AA", rb"(?<!\d)\d{8,10}:AA[\w-]{30,}"),
    ("a signed token", b"eyJ", rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    ("a RunPod key", b"rpa_", rb"(?<![A-Za-z0-9_])rpa_[A-Za-z0-9]{30,}"),
    ("a Replicate token", b"r8_", rb"(?<![A-Za-z0-9_])r8_[A-Za-z0-9]{30,}"),
    ("a DigitalOcean token", b"_v1_", rb"(?<![A-Za-z0-9_])do[opr]_v1_[0-9a-f]{40,}"),
    ("a SendGrid key", b"SG.", rb"(?<![A-Za-z0-9_])SG\.[\w-]{16,}\.[\w-]{16,}"),
    *(
        (
            "a key",
            anchor,
            rb"(?:SHADEFORM|WANDB|OPENAI|ANTHROPIC|OPENROUTER|LAMBDA|VAST|RUNPOD|HF|HUB|HUGGINGFACE|GITHUB|SLACK|NPM)(?:_API)?"
            + anchor
            + rb"(?:_BOX)?[\"']?\s{0,3}[=:]\s{0,3}[\"']?(?=[\w.+/~-]*[0-9])[\w.+/~-]{16,}",
        )
        for anchor in (b"_KEY", b"_TOKEN")
    ),
)

# A value with a digit, in quotes or not; a longer name, an attribute or a call is code
ASSIGNED = (
    rb"[\"']?\s{0,3}[=:]\s{0,3}"
    rb"(?:[\"'](?=[a-z0-9_+/~.-]*[0-9])[a-z0-9_+/~.-]{16,}|(?=[a-z0-9+/~-]*[0-9])[a-z0-9+/~-]{16,}(?![\w.(\[]))"
)
# What the names of variables begin with that hold a key: keys of these services have no form of their own, or had none
OWNERS: tuple[tuple[bytes, bytes], ...] = (
    *((o, o) for o in (b"shadeform", b"wandb", b"openai", b"anthropic", b"openrouter", b"runpod")),
    *((o, o) for o in (b"replicate", b"sendgrid", b"digitalocean", b"github", b"slack", b"npm")),
    (b"lambda", rb"lambda(?:_?labs|_cloud)?"),
    (b"vast", rb"vast(?:_?ai)?"),
    (b"hugging", rb"hugging_?face(?:_?hub)?"),
    (b"hf_", rb"hf"),
    (b"hub_", rb"hub"),
)
NAMED = rb"_(?:api_?|access_?|auth_?|secret_?)?(?:key|token)(?:_box)?"

# Names, which are written in any case: these are searched in the text in small letters
ANY_CASE: tuple[Shape, ...] = (
    ("a wandb key", b"wandb", rb"wandb[^\n]{0,80}?(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])"),
    (
        "a login",
        b"password",
        rb"machine\s+[^\s{}<>$]+\s+login\s+[^\s{}<>$]+\s+password\s+[^\s\"'{}<>$*\\]{8,}",
    ),
    ("a login", b"password", rb"default\s+login\s+[^\s{}<>$]+\s+password\s+[^\s\"'{}<>$*\\]{8,}"),
    (
        "an AWS key",
        b"aws_secret_access_key",
        rb"aws_secret_access_key[\"']?\s*[=:]\s*[\"']?[a-z0-9/+]{40}",
    ),
    ("an Azure key", b"accountkey=", rb"accountkey=[a-z0-9+/]{80,}="),
    ("a bearer token", b"bearer ", rb"bearer +(?=[a-z0-9._~+/-]*[0-9])[a-z0-9._~+/-]{20,}"),
    (
        "an API key",
        b"x-api-key",
        rb"x-api-key[\"']?\s*[:=]\s*[\"']?(?=[a-z0-9_-]*[0-9])[a-z0-9_-]{16,}",
    ),
    *(("a key", anchor, owner + NAMED + ASSIGNED) for anchor, owner in OWNERS),
)
