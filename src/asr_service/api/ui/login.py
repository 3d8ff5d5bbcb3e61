"""The way into the page where callers are checked: one field for an API key or a token, which goes into a cookie.

Owns the login page and its two languages. Whether a credential is good is the gate's business, so that failed logins
are counted and throttled like all others; when its cookie counts is that of `asr_service.api.cookies`.
"""

import base64
import hashlib
import html
import math
import re
from http import HTTPStatus
from typing import Final, Literal

from fastapi import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from asr_service.api import cookies
from asr_service.api.auth import form_of, gate_of
from asr_service.api.context import record_of
from asr_service.api.problems import loggable, problem
from asr_service.errors import AsrError, Forbidden, RateLimited, Unauthenticated

Language = Literal["en", "zh"]
_LANGUAGE_COOKIE = "asr_language"
_TEXTS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "title": "Log in",
        "hint": "Enter an API key or a token of this service.",
        "label": "API key or token",
        "button": "Log in",
        "other": "中文",
        "empty": "Enter an API key or a token.",
        "wrong": "This API key or token is not valid.",
        "scope": "This API key or token may not transcribe.",
        "wait": "Too many failed attempts. Try again in {seconds} s.",
        "trouble": "It cannot be checked at the moment. Try again a little later.",
        "long": "It is too long, or has characters that no API key and no token has.",
    },
    "zh": {
        "title": "登录",
        "hint": "请输入本服务的 API 密钥或令牌。",
        "label": "API 密钥或令牌",
        "button": "登录",
        "other": "English",
        "empty": "请输入 API 密钥或令牌。",
        "wrong": "该 API 密钥或令牌无效。",
        "scope": "该 API 密钥或令牌没有转写权限。",
        "wait": "失败次数过多，请在 {seconds} 秒后重试。",
        "trouble": "暂时无法验证，请稍后重试。",
        "long": "内容过长，或含有 API 密钥和令牌中不会出现的字符。",
    },
}
_OTHER: Final[dict[Language, Language]] = {"en": "zh", "zh": "en"}
_TAGS: Final[dict[Language, str]] = {"en": "en", "zh": "zh-Hans"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --soft: #64748b; --line: #cbd5e1; --ground: #f8fafc;
  --sheet: #fff; --accent: #2563eb; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #94a3b8; --line: #475569; --ground: #0b0f19;
  --sheet: #1e293b; --accent: #3b82f6; --bad: #fca5a5; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 16px; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", sans-serif; }
main { width: 100%; max-width: 400px; padding: 32px; background: var(--sheet); border: 1px solid var(--line);
  border-radius: 12px; }
header { display: flex; justify-content: space-between; color: var(--soft); font-size: 14px; }
h1 { margin: 16px 0 4px; font-size: 22px; }
p { margin: 0 0 20px; color: var(--soft); }
label { display: block; margin-bottom: 6px; font-weight: 600; font-size: 14px; }
input, button { width: 100%; padding: 11px 12px; font: inherit; border-radius: 8px; border: 1px solid var(--line); }
input { background: var(--ground); color: var(--ink); }
button { margin-top: 16px; border-color: var(--accent); background: var(--accent); color: #fff; font-weight: 600;
  cursor: pointer; }
a { color: inherit; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wrong { margin: 12px 0 0; color: var(--bad); }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    # With `no-referrer`, browsers send forms with `Origin: null`, and nobody could tell whose form it is.
    "Referrer-Policy": "same-origin",
}


async def show(request: Request) -> Response:
    """The form; or the page at once, where nobody is checked."""
    if gate_of(request).authenticator is None:
        return _to_the_page()
    return _form(request)


async def enter(request: Request) -> Response:
    """Check what was entered, and let its holder in."""
    if (refusal := _of_another_site(request)) is not None:
        return refusal
    gate = gate_of(request)
    if gate.authenticator is None:
        return _to_the_page()
    credential = dict(await form_of(request)).get("credential", "").strip()
    if not credential:
        return _form(request, "empty", 422)
    try:
        await gate.enter(request, "transcribe", credentials={credential})
    except AsrError as error:
        record = record_of(request.scope)
        record.code, record.error = error.code, loggable(error.message)
        return _refused(request, error)
    if not cookies.fits(credential):
        return _form(request, "long", 422)
    response = _to_the_page()
    cookies.set_on(response, request, credential)
    return response


async def leave(request: Request) -> Response:
    """Forget who is logged in."""
    if (refusal := _of_another_site(request)) is not None:
        return refusal
    response = RedirectResponse("login", HTTPStatus.SEE_OTHER)
    cookies.delete_on(response, request)
    return response


def _refused(request: Request, error: AsrError) -> Response:
    match error:
        case Unauthenticated():
            return _form(request, "wrong", error.status)
        case Forbidden():
            return _form(request, "scope", error.status)
        case RateLimited():
            seconds = max(1, math.ceil(error.retry_after_s or 1))
            return _form(request, "wait", error.status, seconds)
    return _form(request, "trouble", error.status, math.ceil(error.retry_after_s or 10))


def _of_another_site(request: Request) -> Response | None:
    """The refusal of a form that another site has sent: nobody should be logged in, or out, without wanting to."""
    site = request.headers.get("sec-fetch-site")
    foreign = site is not None and site not in ("same-origin", "none")
    if foreign or ("origin" in request.headers and not cookies.from_own_page(request)):
        return problem(request, 403, "forbidden", "This form is taken from the page itself only.")
    return None


def _to_the_page() -> Response:
    return RedirectResponse("./", HTTPStatus.SEE_OTHER)


def _language(request: Request) -> Language:
    """The one that was asked for, else the one that was chosen in the page, else the first that the browser prefers."""
    for name in (request.query_params.get("language"), request.cookies.get(_LANGUAGE_COOKIE)):
        if name in _TEXTS:
            return name
    for tag in request.headers.get("accept-language", "").lower().split(","):
        if found := re.match(r"\s*(en|zh)\b", tag):
            return "zh" if found.group(1) == "zh" else "en"
    return "en"


def _form(request: Request, complaint: str = "", status: int = 200, retry_after_s: int | None = None) -> Response:
    language = _language(request)
    texts = {name: html.escape(text) for name, text in _TEXTS[language].items()}
    told = ""
    if complaint:
        sentence = texts[complaint].format(seconds=retry_after_s)
        told = f'<p class="wrong" id="complaint" role="alert">{sentence}</p>'
    described = ' aria-describedby="complaint" aria-invalid="true"' if complaint else ""
    other = _OTHER[language]
    page = f"""<!DOCTYPE html>
<html lang="{_TAGS[language]}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{texts["title"]} · asr-service</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header><span>asr-service</span><a href="login?language={other}" lang="{_TAGS[other]}">{texts["other"]}</a></header>
<h1>{texts["title"]}</h1>
<p>{texts["hint"]}</p>
<form method="post" action="login?language={language}">
<label for="credential">{texts["label"]}</label>
<input id="credential" name="credential" type="password" autocomplete="current-password" required autofocus{described}>
{told}
<button type="submit">{texts["button"]}</button>
</form>
</main>
</body>
</html>
"""
    headers = dict(_HEADERS)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return HTMLResponse(page, status, headers)
