"""Addresses and keys that the command is given."""

import pytest

from asr_service.live.address import address


@pytest.mark.parametrize(
    ("url", "websocket"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/realtime"),
        ("https://asr.example/", "wss://asr.example/v1/realtime"),
        ("ws://[::1]:8000/asr", "ws://[::1]:8000/asr/v1/realtime"),
        ("wss://asr.example/a/b/", "wss://asr.example/a/b/v1/realtime"),
        ("http://host/v1", "ws://host/v1/realtime"),
        ("wss://host/asr/v1/realtime", "wss://host/asr/v1/realtime"),
    ],
)
def test_the_websocket_of_a_service(url: str, websocket: str) -> None:
    assert address(url).url == websocket


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:8000", "should be the service's address"),
        ("ftp://host", "should be the service's address"),
        ("http://", "should be the service's address"),
        ("http://host:port", "is no address"),
        ("http://user:password@host", "no user name"),
        ("http://host/?model=x", "no query"),
        ("http://host/a b", "neither spaces"),
    ],
)
def test_addresses_that_cannot_be_asked(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        address(url)


def test_keys_that_no_header_can_carry() -> None:
    with pytest.raises(ValueError, match="An API key has neither spaces"):
        address("http://host", "key\r\nX: y")


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(address("http://host", "secret"))
