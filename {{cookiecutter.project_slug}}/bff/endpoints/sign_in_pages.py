"""The pages that a browser sees between the identity provider and the app."""

from __future__ import annotations

from html import escape
from typing import Final

from fastapi.responses import HTMLResponse

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{head}
<p>{text} <a href="{path}">{link}</a></p>
"""


def continue_page(path: str) -> HTMLResponse:
    """A page that continues to a path at once.

    A redirect would be part of the navigation that the provider began, in which browsers leave out
    cookies with SameSite=Strict. This begins a navigation of our own.
    """
    target = escape(path)
    head = f'<meta http-equiv="refresh" content="0;url={target}">'
    html = _PAGE.format(title="Signed in", head=head, text="", path=target, link="Continue")
    return HTMLResponse(html, headers=_HEADERS)


def failed_page(status: int, text: str, path: str) -> HTMLResponse:
    """A page that says why the sign-in failed, and offers another try."""
    html = _PAGE.format(
        title="Sign-in failed", head="", text=escape(text), path=escape(path), link="Try again"
    )
    return HTMLResponse(html, status, headers=_HEADERS)
