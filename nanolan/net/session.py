"""A session for HTTP calls that sends only the credentials of the call."""

from __future__ import annotations

import requests

from nanolan.settings.settings import is_loopback


def open_session(url: str) -> requests.Session:
    """A session for calls to `url`. Uses proxies and REQUESTS_CA_BUNDLE of the environment, except on loopback.

    Ignores ~/.netrc: requests would send a login from there instead of the call's own.
    """
    session = requests.Session()
    session.auth = no_login
    session.trust_env = not is_loopback(url)
    return session


def no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return the request unchanged: a session with an `auth` of its own does not read ~/.netrc."""
    return request
