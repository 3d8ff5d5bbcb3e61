"""Hotwords: names and terms that a request makes likelier, as bonuses on the logits of the tokens that spell them.

Owns the trie over their token sequences, and what each next token is worth after the tokens so far. Plain Python: knows
neither tensors nor tokenizers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

START_BONUS = 3.0
"""For beginning a hotword, divided by the number of its tokens: the first of many is but a letter, which would come to
stand where other words are. Moves a good second guess to the front, and no unlikely token."""
GO_ON_BONUS = 6.0
"""For each further token of a hotword that has begun: a rare name is spelt in pieces that are rarer still."""


@dataclass(slots=True)
class _Node:
    """After some tokens of a hotword. `pieces`: in how many tokens the shortest one that goes through here is spelt."""

    pieces: int
    children: dict[int, "_Node"] = field(default_factory=dict)


class Hotwords:
    """A trie over the token sequences of all hotwords of a request. Shared by all rows of that request."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._root = _Node(0)
        for sequence in sequences:
            node = self._root
            for token in sequence:
                node = node.children.setdefault(token, _Node(len(sequence)))
                node.pieces = min(node.pieces, len(sequence))

    @classmethod
    def of(cls, hotwords: Iterable[str], encode: Callable[[str], Sequence[int]]) -> "Hotwords":
        """`encode` gives the tokens of a text. A hotword may follow a space or not, and is spelt in both ways."""
        words = [word.strip() for word in hotwords if word.strip()]
        return cls(encode(text) for word in words for text in (word, f" {word}"))

    def follow(self) -> "Progress":
        return Progress(self._root)


class Progress:
    """What one row has said, as far as hotwords care: the hotwords that it is in the middle of."""

    def __init__(self, root: _Node) -> None:
        self._root = root
        self._starts = {token: START_BONUS / node.pieces for token, node in root.children.items()}
        self._begun: list[_Node] = []

    def push(self, token: int) -> None:
        """Take the token that the row has said next."""
        self._begun = [node.children[token] for node in (self._root, *self._begun) if token in node.children]

    def bonuses(self) -> dict[int, float]:
        """What to add to the logits of the next step, by token: whatever begins a hotword or goes on in one."""
        bonuses = dict(self._starts)
        for node in self._begun:
            bonuses.update(dict.fromkeys(node.children, GO_ON_BONUS))
        return bonuses
