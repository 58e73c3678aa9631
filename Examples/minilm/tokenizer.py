"""BERT's uncased WordPiece tokenizer, from the vocabulary file alone."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import torch
from torch import Tensor

_CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))


class Tokenizer:
    def __init__(self, vocabulary: Path, longest: int) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {word: index for index, word in enumerate(words)}
        self.longest = longest
        self._begin, self._end, self._pad, self._unknown = (self.ids[word] for word in ("[CLS]", "[SEP]", "[PAD]", "[UNK]"))

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded to the longest of the texts."""
        rows = [[self._begin, *self.pieces(text)[: self.longest - 2], self._end] for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self._pad, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids, ids != self._pad

    def pieces(self, text: str) -> list[int]:
        return [piece for word in _words(text) for piece in self._split(word)]

    def _split(self, word: str) -> list[int]:
        """The longest known beginning, again and again; a word that has none is one unknown."""
        pieces: list[int] = []
        begin = 0
        while begin < len(word):
            for end in range(len(word), begin, -1):
                piece = self.ids.get(("##" if begin else "") + word[begin:end])
                if piece is not None:
                    pieces.append(piece)
                    begin = end
                    break
            else:
                return [self._unknown]
        return pieces if len(word) <= 100 else [self._unknown]


def _words(text: str) -> list[str]:
    """Lower case, without accents; punctuation and CJK characters are words of their own."""
    spaced: list[str] = []
    for char in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(char)
        if category == "Mn" or (category.startswith("C") and char not in "\t\n\r"):
            continue
        alone = _is_punctuation(char, category) or any(first <= ord(char) <= last for first, last in _CJK)
        spaced.append(f" {char} " if alone else char)
    return "".join(spaced).split()


def _is_punctuation(char: str, category: str) -> bool:
    return category.startswith("P") or char in "$+<=>^`|~"
