"""The allowlist compares whole origins: no wildcards, suffixes or other spellings."""

from __future__ import annotations

import pytest
from bff.auth.origins import Origins
from bff.errors import Code, Problem
from starlette.requests import HTTPConnection


def connection(*origins: str) -> HTTPConnection:
    headers = [(b"origin", origin.encode()) for origin in origins]
    return HTTPConnection({"type": "http", "headers": headers, "path": "/", "query_string": b""})


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "https://evilapp.example.com",
        "https://app.example.com.evil.net",
        "https://evil.net/app.example.com",
        "https://sub.app.example.com",
        "https://example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com:443",
        "https://app.example.com/",
        "https://app.example.com ",
        "https://app.example.com.",
        "https://APP.example.com",
        "HTTPS://app.example.com",
        "https://user@app.example.com",
        "https://app.example.com@evil.net",
        "https://app.example.com, https://evil.net",
        "https://xn--bcher-kva.example",
        "https://bücher.example",
        "file://",
    ],
)
def test_an_origin_that_is_not_listed_exactly_is_refused(origin: str) -> None:
    origins = Origins(["https://app.example.com", "https://xn--strae-oqa.example"])
    for required in (True, False):
        with pytest.raises(Problem) as caught:
            origins.check(connection(origin), required=required)
        assert caught.value.code is Code.FORBIDDEN


def test_a_listed_origin_is_allowed() -> None:
    origins = Origins(["https://app.example.com", "http://localhost:8000"])
    origins.check(connection("https://app.example.com"), required=True)
    origins.check(connection("http://localhost:8000"), required=True)


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://[::1]:443", "https://[::1]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://App.Example.com", "https://app.example.com"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_entries_of_the_list_are_normalised(listed: str, sent: str) -> None:
    Origins([listed]).check(connection(sent), required=True)


@pytest.mark.parametrize(
    "listed", ["https://bücher.example", "https://user@app.example.com", "https://"]
)
def test_an_invalid_entry_is_refused_at_startup(listed: str) -> None:
    with pytest.raises(ValueError, match="ALLOWED_ORIGINS"):
        Origins([listed])


def test_two_origins_are_refused_even_if_one_is_listed() -> None:
    with pytest.raises(Problem):
        Origins(["http://a"]).check(connection("http://a", "http://evil"), required=False)


def test_an_empty_list_allows_no_origin() -> None:
    with pytest.raises(Problem):
        Origins([]).check(connection("http://a"), required=False)


def test_a_missing_origin_is_refused_only_where_it_is_required() -> None:
    Origins([]).check(connection(), required=False)
    with pytest.raises(Problem):
        Origins(["http://a"]).check(connection(), required=True)
