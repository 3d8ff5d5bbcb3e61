"""The bytes that tokens stand for, in the byte-level vocabularies that both model families have.

Owns the alphabet of byte-level byte-pair encoding (Radford et al. 2019): each byte is written as one printable
character. Knows no model.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from asr_service.domain import Token


def _alphabet() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _alphabet()


class Spelling:
    """What a tokenizer's tokens stand for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._marks = frozenset(tokenizer.added_tokens_decoder)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special ones."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def data(self, token: int) -> bytes:
        """The bytes of a token, which are not always whole characters. Marks, such as timestamps, have none."""
        symbols = None if token in self._marks else self._tokenizer.convert_ids_to_tokens(token)
        return bytes(_BYTES[symbol] for symbol in symbols or "")

    def details(self, tokens: Sequence[int], logprobs: Sequence[float]) -> tuple[Token, ...]:
        """Tokens with what they are worth. There may be more log probabilities than tokens are left."""
        return tuple(Token(i, self.data(i), value) for i, value in zip(tokens, logprobs, strict=False))
