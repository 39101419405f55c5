"""Options are rendered so that the script gets the value in the type of its default."""

from __future__ import annotations

import argparse
import ast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanolan.errors import UsageProblem
from nanolan.trainers.scripts.options import Value, apply, read_script, render
from tests.support.script_fixtures import ARGPARSE, CONFIGURATOR, RUN, read


# --- rendering ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("default", "value", "argument"),
    [
        ("0.5", 1, "--k=1.0"),
        ("0.5", "1", "--k=1.0"),
        ("0.5", "1e-4", "--k=0.0001"),
        ("0.5", "1e-7", "--k=1e-07"),
        ("1", "2", "--k=2"),
        ("1", -2, "--k=-2"),
        ("True", "false", "--k=False"),
        ("False", "1", "--k=True"),
        ("False", True, "--k=True"),
        ('"x"', "dummy", "--k=dummy"),
        ('"x"', "cuda:0", "--k=cuda:0"),
        ('"x"', "123", "--k='123'"),
        ('"x"', 123, "--k='123'"),
        ('"x"', "True", "--k='True'"),
        ('"x"', "[1]", "--k='[1]'"),
        ('"x"', "it's", '--k="it\'s"'),
        ('"x"', "", "--k=''"),
        ('"x"', "two words", "--k='two words'"),
        ('"x"', "é\n", "--k='\\xe9\\n'"),
        ("None", "650", "--k=650"),
        ("None", 650, "--k=650"),
        ("None", "d20", "--k=d20"),
        ("None", "'123'", "--k='123'"),
        ("None", "None", "--k=None"),
        ("None", "{[]: 1}", "--k='{[]: 1}'"),
        ("f()", "5", "--k=5"),
        ("int(f())", "5", "--k=5"),
    ],
)
def test_configurator_arguments(default: str, value: Value, argument: str) -> None:
    assert render(read(f"k = {default}\n{RUN}"), "k", value) == [argument]


@pytest.mark.parametrize(
    ("default", "value", "words"),
    [
        ("1", "2.5", "--k of scripts/chat_sft.py takes a whole number, not '2.5'"),
        ("1", 2.0, "takes a whole number"),
        ("1", "x", "takes a whole number"),
        ("1", "", "takes a whole number"),
        ("0", True, "takes a whole number"),
        ("0.5", "x", "takes a number"),
        ("0.5", "nan", "takes a number"),
        ("0.5", "inf", "takes a finite number"),
        ("0.5", 1e999, "takes a finite number"),
        ("None", float("nan"), "takes a finite number"),
        ("True", "maybe", "takes true or false"),
        ("True", 2, "takes true or false"),
        ('"x"', "a=b", "without '='"),
        ("None", "a=b", "without '='"),
    ],
)
def test_values_that_the_configurator_would_refuse(default: str, value: Value, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        render(read(f"k = {default}\n{RUN}"), "k", value)


RENDERED: list[tuple[str, Value, list[str]]] = [
    ("type=int", "2", ["--k=2"]),
    ("type=int", -2, ["--k=-2"]),
    ("type=float", 1, ["--k=1.0"]),
    ("type=float", "inf", ["--k=inf"]),
    ("type=str", "-x y=z", ["--k=-x y=z"]),
    ("type=str", 5, ["--k=5"]),
    ("type=str", "", ["--k="]),
    ("type=bool", "false", ["--k="]),
    ("type=bool", "true", ["--k=True"]),
    ("default=True", False, ["--k="]),
    ("default=0.5", "1", ["--k=1.0"]),
    ("type=lambda s: s == 'True', default=True", False, ["--k=False"]),
    ("type=size, default=5", "512K", ["--k=512K"]),
    ("action='store_true'", "true", ["--k"]),
    ("action='store_true'", False, []),
    ("action='store_false'", True, ["--k"]),
    ("action='store_false'", False, []),
    ("action=argparse.BooleanOptionalAction", True, ["--k"]),
    ("action=argparse.BooleanOptionalAction", "no", ["--no-k"]),
    ("choices=['a', 'b']", "b", ["--k=b"]),
    ("type=int, choices=[1, 2]", "2", ["--k=2"]),
    ("type=float, choices=[1, 2]", "2", ["--k=2.0"]),
    ("type=float, nargs='+'", "0.1 -2", ["--k", "0.1", "-2.0"]),
    ("type=float, nargs='+'", "0.1", ["--k=0.1"]),
    ("type=int, nargs=2", "1 2", ["--k", "1", "2"]),
    ("type=int, nargs='*'", "", ["--k"]),
    ("nargs='?'", "a b", ["--k=a b"]),
    ("action='append'", "a", ["--k=a"]),
]


@pytest.mark.parametrize(("keywords", "value", "arguments"), RENDERED)
def test_argparse_arguments(keywords: str, value: Value, arguments: list[str]) -> None:
    assert render(read(f'p.add_argument("--k", {keywords})'), "k", value) == arguments


@pytest.mark.parametrize(
    ("keywords", "value", "words"),
    [
        ("type=int", "2.5", "takes a whole number"),
        ("type=float", "x", "takes a number"),
        ("type=float", "nan", "takes a number"),
        ("action='store_true'", "2", "takes true or false"),
        ("action='store_true', default=True", False, "always on"),
        ("choices=['a', 'b']", "c", "takes one of a, b"),
        ("nargs='+'", "", "takes \\+ values"),
        ("nargs=2", "1", "takes 2 values"),
        ("nargs='+'", "a -b", "begins with a dash"),
        ("nargs=argparse.REMAINDER", "a", "argparse.REMAINDER"),
        ("type=str", "\0", "NUL"),
    ],
)
def test_values_that_argparse_would_refuse(keywords: str, value: Value, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        render(read(f'p.add_argument("--k", {keywords})'), "k", value)


@pytest.mark.parametrize("source", [CONFIGURATOR, ARGPARSE], ids=["configurator", "argparse"])
def test_apply_skips_what_is_not_there_and_lets_the_user_win(source: str) -> None:
    script = read(source)
    wanted: dict[str, Value] = {"run": "r1", "init-lr-frac": 1, "model_step": 650}
    user = {"init_lr-frac": "0.1", "num-epochs": "2"}
    assert [a.replace("_", "-") for a in apply(script, wanted, user)] == [
        "--run=r1",
        "--init-lr-frac=0.1",
        "--num-epochs=2",
    ]


def test_unknown_options_of_the_user_name_near_ones() -> None:
    with pytest.raises(UsageProblem) as caught:
        apply(read(ARGPARSE), {}, {"init-lr-fraq": "1"})
    assert str(caught.value) == (
        "unknown option init-lr-fraq of scripts/chat_sft.py; did you mean init-lr-frac?"
    )
    with pytest.raises(UsageProblem, match="unknown option zzz of scripts/chat_sft.py$"):
        apply(read(ARGPARSE), {}, {"zzz": "1"})


# --- laws -----------------------------------------------------------------------------------------
def configured(argument: str) -> object:
    """As nanochat's configurator reads it."""
    _, text = argument.split("=")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


SCALAR = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text().filter(lambda s: "=" not in s),
)


@given(st.tuples(SCALAR, SCALAR).filter(lambda pair: type(pair[0]) is type(pair[1])))
@example(("x", "1_000"))
@example(("x", " 5"))
@example(("x", "None"))
@example(("x", "\ud800\0"))
@example((0.0, -0.0))
def test_the_configurator_reads_back_the_same_value(pair: tuple[Value, Value]) -> None:
    default, value = pair
    script = read_script(f"k = {ascii(default)}\n{RUN}", "x.py")
    assert script.options["k"].default == default
    (argument,) = render(script, "k", value)
    got = configured(argument)
    assert (got, type(got), str(got)) == (value, type(value), str(value))


@given(
    st.sampled_from(["--key", "--the-key", "--the_key", "-k"]),
    st.tuples(SCALAR, SCALAR).filter(lambda pair: type(pair[0]) is type(pair[1])),
)
def test_argparse_gets_the_same_value(flag: str, pair: tuple[Value, Value]) -> None:
    default, value = pair
    call = f'parser.add_argument("{flag}", type={type(default).__name__}, default={ascii(default)})'
    script = read_script(call, "x.py")
    (option,) = script.options.values()
    parser = argparse.ArgumentParser()
    exec(call, {"parser": parser})
    assert option.default == default
    if "\0" in str(value):
        with pytest.raises(UsageProblem):
            render(script, option.name, value)
        return
    got = vars(parser.parse_args(render(script, option.name, value)))[option.name]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(("keywords", "value", "arguments"), RENDERED)
def test_a_real_parser_takes_the_rendered_rows(
    keywords: str, value: Value, arguments: list[str]
) -> None:
    parser = argparse.ArgumentParser()
    exec(
        f'parser.add_argument("--k", {keywords})',
        {"parser": parser, "argparse": argparse, "size": str},
    )
    parser.parse_args(arguments)
