"""A session for HTTP calls that sends no credentials but those of the call."""

from __future__ import annotations

import requests

from nanolan.settings.settings import is_loopback


def open_session(url: str) -> requests.Session:
    """A session for calls to `url`. Proxies and REQUESTS_CA_BUNDLE of the environment count, but not on loopback.

    ~/.netrc never counts: requests would send its login, or its `default` one, in place of the call's own.
    """
    session = requests.Session()
    session.auth = no_login
    session.trust_env = not is_loopback(url)
    return session


def no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """The request as it is: while a session has its own way to log in, requests does not read ~/.netrc."""
    return request
