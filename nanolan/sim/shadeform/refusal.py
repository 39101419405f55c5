"""The error answers of the simulated Shadeform.

The 401 and the 409s are as recorded from the real API; the bodies of 400, 403, 404 and 405 are undocumented.
"""

from __future__ import annotations

from typing import Any

BALANCE_TOO_LOW = "Balance must be a minimum of $5 to launch an instance. Current balance [${}]."
REFUSALS: dict[str, tuple[int, dict[str, Any] | str]] = {
    "unauthorized": (401, {"message": "Invalid API key"}),
    "forbidden": (403, {"message": "Forbidden"}),
    "not_found": (404, {"error": "not found"}),
    "wrong_verb": (405, "Method Not Allowed"),
    "out_of_stock": (409, {"error_code": "OUT_OF_STOCK", "error": "Out of stock"}),
    "internal_error": (
        409,
        {"error_code": "INTERNAL_SERVER_ERROR", "error": "internal server error"},
    ),
    "insufficient_funds": (
        409,
        {"error_code": "INSUFFICIENT_FUNDS", "error": BALANCE_TOO_LOW.format("-0.0245169203")},
    ),
    "name_taken": (409, {"error_code": "BAD_REQUEST", "error": "name must be unique"}),
    "key_needed": (
        409,
        {"error_code": "BAD_REQUEST", "error": "the key is managed, the default or in use"},
    ),
}


class Refusal(Exception):
    """An answer other than 200: a status, and a body (a dict becomes JSON, a str stays text)."""

    def __init__(self, status: int, body: dict[str, Any] | str) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


def refuse(name: str) -> Refusal:
    """The refusal of that name, to be raised."""
    return Refusal(*REFUSALS[name])


def bad_request(why: str) -> Refusal:
    """400 with a reason, to be raised."""
    return Refusal(400, {"error": why})


def insufficient_funds(balance: str) -> Refusal:
    """The answer to a create with less than $5 in the wallet, to be raised."""
    return Refusal(
        409, {"error_code": "INSUFFICIENT_FUNDS", "error": BALANCE_TOO_LOW.format(balance)}
    )
