"""A SOCKS proxy of any variable is named: the Hub's client opens a way for each when it is made."""

from __future__ import annotations

import pytest

from nanolan.errors import WrongSetting
from nanolan.net.errors import HUB, of_exception

ASKED = "Using SOCKS proxy, but the 'socksio' package is not installed."


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", ["socks5://h:1", "SOCKS5h://me:" + "p4ssword@h:1"])
def test_a_socks_proxy_is_named_whatever_its_scheme(name: str, value: str) -> None:
    environ = {"HTTPS_PROXY": "http://h:3128"} | {name: value}
    trouble = of_exception(ImportError(ASKED), HUB, "https://huggingface.co", environ)
    assert f"{name} (environment) is a SOCKS proxy" in trouble.text and not trouble.again
    assert isinstance(trouble.error(), WrongSetting) and "p4ssword" not in trouble.text
