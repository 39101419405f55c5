"""Options are read from a script's source without running it."""

from __future__ import annotations

import sys

import pytest

from nanolan.errors import UsageProblem
from nanolan.trainers.scripts.options import Script, read_script
from nanolan.trainers.scripts.syntax import Expression
from tests.support.script_fixtures import CONFIGURATOR, RUN, read


def unknown(text: str) -> Expression:
    return Expression(text)


# --- reading argparse: (what follows `p.`, the default, the type) ---------------------------------
ARGUMENTS: list[tuple[str, str, object, type | None]] = [
    ('("--init-lr-frac", type=float, default=0.1)', "--init-lr-frac", 0.1, float),
    ('("--init_lr_frac", type=float, default=0.1)', "--init_lr_frac", 0.1, float),
    ('("-i", "--source", type=str, required=True)', "--source", None, str),
    ('("--source", "-i", default="sft")', "--source", "sft", str),
    ('("-i", type=int)', "-i", None, int),
    ('("--eval-tokens", type=int, default=20*524288)', "--eval-tokens", 20 * 524288, int),
    ('("--n", type=int, default=-1)', "--n", -1, int),
    ('("--n", type=int, default=2**19)', "--n", 2**19, int),
    ('("--n", type=int, default=1 << 19)', "--n", 1 << 19, int),
    ('("--n", type=int, default=8 * 1024**2)', "--n", 8 * 1024**2, int),
    ('("--flops", type=float, default=-1.5)', "--flops", -1.5, float),
    ('("--flops", type=float, default=1e-3 / 2)', "--flops", 0.0005, float),
    ('("--n", type=int, default="5")', "--n", 5, int),
    ('("--n", type=int, default=SIZE)', "--n", 7, int),
    ('("--n", type=int, default=2 * SIZE)', "--n", 14, int),
    ('("--n", type=int, default=9**9**9)', "--n", unknown("9 ** 9 ** 9"), int),
    ('("--n", type=int, default=1 // 0)', "--n", unknown("1 // 0"), int),
    ('("--n", type=int, default=OTHER)', "--n", unknown("OTHER"), int),
    ('("--t", default=os.environ.get("T", "x"))', "--t", unknown("os.environ.get('T', 'x')"), str),
    ('("--t", default=f"{SIZE}")', "--t", unknown("f'{SIZE}'"), str),
    ('("--t", default="a" "b" + "c")', "--t", "abc", str),
    ('("--n", default=3)', "--n", 3, int),
    ('("--b", default=True)', "--b", True, bool),
    ('("--n")', "--n", None, str),
    ('("--b", type=lambda s: s == "1", default=True)', "--b", True, None),
    ('("--b", type=str2bool, default=True)', "--b", True, None),
    ('("--p", type=pathlib.Path, default="x")', "--p", "x", None),
    ('("--b", action="store_true")', "--b", False, bool),
    ('("--no-b", action="store_false")', "--no-b", True, bool),
    ('("--b", action=argparse.BooleanOptionalAction, default=True)', "--b", True, bool),
    ('("-v", "--verbose", action="count", default=0)', "--verbose", 0, bool),
    ('("--lr", type=float, nargs="+", default=[0.1, 1])', "--lr", (0.1, 1), float),
    ('("--n", **common)', "--n", unknown("**common"), None),
    ('("--n", default=argparse.SUPPRESS)', "--n", unknown("argparse.SUPPRESS"), str),
    ("(FLAG, type=int)", "--flag", None, int),
    ('("--2d-mode", type=int, default=0)', "--2d-mode", 0, int),
    ('("--größe", type=int, default=0)', "--größe", 0, int),
]


@pytest.mark.parametrize(("call", "flag", "default", "kind"), ARGUMENTS, ids=lambda v: str(v)[:60])
def test_argparse_rows(call: str, flag: str, default: object, kind: type | None) -> None:
    script = read(
        f'SIZE = 7\nFLAG = "--flag"\np = argparse.ArgumentParser()\np.add_argument{call}\n'
    )
    (option,) = {id(option): option for option in script.options.values()}.values()
    assert script.style == "argparse"
    assert (option.flag, option.default, option.type) == (flag, default, kind)
    assert option.name == flag.lstrip("-").replace("-", "_")


@pytest.mark.parametrize(
    "call",
    [
        '("path")',  # positional
        '("path", nargs="?", default="x")',
        '("--" + name, type=int)',
        '(f"--{name}", type=int)',
        "(name)",
        "(*names)",
        "()",
        '("--")',
        '("--help", action="help")',
        '("--version", action="version", version="1")',
    ],
)
def test_arguments_that_are_left_alone(call: str) -> None:
    assert read(f"for name in names:\n  p.add_argument{call}\n").options == {}


@pytest.mark.parametrize(
    "source",
    [
        'def main():\n  cli = ArgumentParser()\n  cli.add_argument("--lr")',
        'class A:\n  def add(self):\n    self.parser.add_argument("--lr")',
        'g = p.add_argument_group("x")\ng.add_argument("--lr")',
        'p.add_argument_group("x").add_argument("--lr")',
        's = p.add_subparsers()\ntrain = s.add_parser("train")\ntrain.add_argument("--lr")',
        'if __name__ == "__main__":\n    parser.add_argument("--lr")',
        'parser.add_argument("--lr", help="\\d")',
        '# -*- coding: latin-1 -*-\np.add_argument("--lr")',
        '\ufeffp.add_argument("--lr")',
        'if 1:\r\n\tp.add_argument(\r\n\t\t"--lr"\r\n\t)\r\n',
    ],
)
def test_where_arguments_are_added(source: str) -> None:
    assert list(read_script(source, "x.py").options) == ["lr"]


def test_everything_else_of_an_argument() -> None:
    options = read("""
        KINDS = ["a", "b"]
        p.add_argument("--n", "--number", type=int, choices=(1, 2), required=True, help="how " "many")
        p.add_argument("--kind", choices=KINDS, help=f"one of {KINDS}")
        p.add_argument("--rest", choices=list(KINDS), help=TEXT)
        p.add_argument("--n", type=float)
    """).options
    assert list(options) == ["n", "number", "kind", "rest"] and options["n"] is options["number"]
    assert (options["n"].choices, options["n"].required, options["n"].type) == (
        ("1", "2"),
        True,
        int,
    )
    assert (options["n"].help, options["kind"].help, options["rest"].help) == (
        "how many",
        "one of {KINDS}",
        "",
    )
    assert (options["kind"].choices, options["rest"].choices) == (("a", "b"), ())


# --- reading the configurator ---------------------------------------------------------------------
ASSIGNMENTS: list[tuple[str, dict[str, object]]] = [
    ('run = "dummy"', {"run": "dummy"}),
    ("n: int = 5", {"n": 5}),
    ("n: int", {}),
    ("a, b = 1, 0.5", {"a": 1, "b": 0.5}),
    ("a = b = 1", {"a": 1, "b": 1}),
    ("n = 20*524288", {"n": 20 * 524288}),
    ("n = -1\nx = -.5", {"n": -1, "x": -0.5}),
    ("n = 1\nn = 2", {"n": 2}),
    ('n = 1\nn = "x"', {"n": "x"}),
    ("n = 2\nm = 3 * n", {"n": 2, "m": 6}),
    ("n = 2\nn *= 4", {"n": 8}),
    ("tag = None", {"tag": None}),
    ("_hidden = 1", {}),
    ("betas = (0.9, 0.95)\nnames = ['a']\nd = {}\ns = {1}\nb = b'x'\nc = 1j", {}),
    ("l = [k for k in x]\ng = (k for k in x)", {}),
    ("def f():\n  n = 1\nclass A:\n  n = 1", {}),
    ("import os\nos.environ['A'] = '1'\na.b = 1", {}),
    ('n = int(os.environ.get("N", 1))', {"n": unknown("int(os.environ.get('N', 1))")}),
    ("a, b = f()", {"a": unknown("f()[0]"), "b": unknown("f()[1]")}),
    ("n = 1\nif big:\n  n = 2\nelse:\n  n = 3", {"n": unknown("3")}),
    ("größe = 1", {"größe": 1}),
    ("n = 1\r\nm = 2\r\n", {"n": 1, "m": 2}),
    ("n = 1; m = 2", {"n": 1, "m": 2}),
]


@pytest.mark.parametrize(("source", "found"), ASSIGNMENTS, ids=lambda v: str(v)[:60])
@pytest.mark.parametrize(
    "end",
    [
        RUN,
        "exec(open('nanochat/configurator.py').read())",
        "exec(Path('nanochat', 'configurator.py').read_text())",
        "with open('nanochat/configurator.py') as f:\n    exec(f.read())",
        "_code = open('nanochat/configurator.py').read()\nexec(_code)",
        "from nanochat.configurator import get_config\nglobals().update(get_config(globals()))",
        "config_keys = {}\nfrom nanochat.configurator import get_config\nupdates = get_config(config_keys)",
    ],
    ids=["2025", "exec", "path", "with", "variable", "get_config", "keys-get_config"],
)
def test_configurator_rows(source: str, found: dict[str, object], end: str) -> None:
    script = read_script(f"{source}\n{end}\nlate = 1\n", "x.py")
    assert script.style == "configurator"
    assert {name: option.default for name, option in script.options.items()} == found


def test_a_branch_leaves_the_type_if_both_agree() -> None:
    options = read(f"a = 1\nb = 1\nif x:\n  a = 2\n  b = 0.5\n{RUN}").options
    assert (options["a"].type, options["b"].type) == (int, None)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\n",
        "# only a comment",
        '"""configurator"""\nexec(code)',
        "exec(code)",
        "n = 1",
        "get_config(globals())",
        "import argparse",
    ],
)
def test_scripts_without_options(source: str) -> None:
    assert read(source) == Script("none", where="scripts/chat_sft.py")


# --- checkpoints ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ('load_model("base", device)', ("base",)),
        ("checkpoint_manager.load_model('mid')", ("mid",)),
        ('load_model(source="mid")', ("mid",)),
        (CONFIGURATOR, ("mid",)),
        ('p.add_argument("-i", "--source", default="sft")\nload_model(args.source)', ("sft",)),
        ('p.add_argument("--source", required=True)\nload_model(args.source)', ()),
        ('def f():\n  src = "rl"\n  load_model(src)', ("rl",)),
        ('load_model("sft" if x else "mid")', ("sft", "mid")),
        ('load_model("base")\nload_model("base")\nload_model("sft")', ("base", "sft")),
        ("load_model()\nload_model(*a)\nload_model(f())\nmodel()", ()),
    ],
)
def test_checkpoints_read(source: str, reads: tuple[str, ...]) -> None:
    assert read(source).reads == reads


@pytest.mark.parametrize(
    ("source", "writes"),
    [
        ('d = join(base, "mid_checkpoints", tag)\nsave_checkpoint(d, step)', ("mid_checkpoints",)),
        ('save_checkpoint(f"{base}/sft_checkpoints/{tag}", step)', ("sft_checkpoints",)),
        (
            'if m:\n  r = b / "x_checkpoints"\n  d = r / tag\n  save_checkpoint(d)',
            ("x_checkpoints",),
        ),
        (
            'join("base_checkpoints")\nd = "rl_checkpoints"\nc.save_checkpoint(d)',
            ("rl_checkpoints",),
        ),
        ('def f(d):\n  save_checkpoint(d)\nf(join("a_checkpoints"))', ("a_checkpoints",)),
        ('d = "a_checkpoints"\ntorch.save(x, d + "/m.pt")', ("a_checkpoints",)),
        ("save_checkpoint(config().sft_checkpoints_dir)", ("sft_checkpoints",)),
        ('load(join("base_checkpoints"))', ()),
        ("d = d\nsave_checkpoint(d)", ()),
        ('save_checkpoint(f"{phase}_checkpoints")', ()),
    ],
)
def test_checkpoints_written(source: str, writes: tuple[str, ...]) -> None:
    assert read(source).writes == writes


# --- sources that cannot be read ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a = 1\nb = (", "s.py line 2"),
        ("a = 1\n  b = 2\n", "s.py line 2"),
        ("if 1:\n\ta = 1\n        b = 2\n", "s.py line 3"),
        ("a = '\0'", "s.py"),
        ("a = '\ud800'", "s.py"),
        ("a = " + "(" * 5000 + ")" * 5000, "s.py"),
        ("a = " + "-" * 50_000 + "1", "s.py"),
        ("a = " + "1+" * 50_000 + "1", "s.py"),
        (f"a = f({'x.' * 20_000}y)\n{RUN}", "s.py"),
        ("a = " + "1" * 5000, "s.py"),
    ],
    ids=range(10),
)
def test_unreadable_sources_name_the_file(source: str, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        read_script(source, "s.py")


@pytest.mark.parametrize(
    "text",
    [
        """f'{x['a']}'""",
        """f"{', '.join(f'{n}: {i['w']:.1%}' for n in t)}\"""",
        """f'{"a'b"}'""",
        """f"{'''a"b'''}\"""",
        """f'{f"a'b"}'""",
        r"""f'{"\n".join(x)}'""",
        r"""f'{f"{x}\n"}'""",
        """f'{\nx\n}'""",
        """f'''{x  # comment\n}'''""",
    ],
)
def test_f_strings_that_need_python_3_12_are_refused_for_an_older_one(text: str) -> None:
    with pytest.raises(UsageProblem, match=r"^s.py line [34]: not valid in Python 3.10: "):
        read_script(f"a = 1\n\nb = {text}\n", "s.py", python=(3, 10))
    if sys.version_info >= (3, 12):
        read_script(f"a = 1\n\nb = {text}\n", "s.py")


@pytest.mark.parametrize(
    "text",
    [
        """f"{x['a']}" + 'a' + f'{y["b"]}'""",
        r"""f'it\'s {x}\n{y!r:>{w}}'""",
        """f'''{x['a']}\n{\ny\n} {f"{z['b']}"}'''""",
        """f'{x:{"a"}}' 'b' "c" f'{{}}'""",
        """rf'{x}\\d'  # comment's""",
    ],
)
def test_f_strings_that_every_python_reads(text: str) -> None:
    read_script(f"b = {text}\n", "s.py", python=(3, 10))


def test_other_syntax_of_a_newer_python_is_refused_for_an_older_one() -> None:
    with pytest.raises(UsageProblem, match="s.py line [13]: not valid in Python 3.9: .*3.10"):
        read_script("match x:\n    case 1:\n        pass\n", "s.py", python=(3, 9))


def test_a_script_for_a_newer_python_says_so() -> None:
    with pytest.raises(UsageProblem, match="s.py is for Python 3.99: run nanolan with that"):
        read_script("new syntax", "s.py", python=(3, 99))


def test_a_huge_file_is_read() -> None:
    lines = "".join(f"n{i} = {i}\n" for i in range(20_000))
    assert len(read(lines + RUN).options) == 20_000
