"""Text: prompts encoded once, and a new word whose embedding is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mvdiff.errors import InputError
from mvdiff.model.component import line, read_component
from mvdiff.model.settings import NEW_WORD


class TextEncoder:
    """A checkpoint's tokenizer and text encoder, loaded for as long as prompts are encoded."""

    def __init__(self, tokenizer: Any, model: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.model = model.float().eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TextEncoder":
        """From ``folder/tokenizer`` and ``folder/text_encoder``; ``InputError`` where they do not load."""
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        # the tokenizers library raises plain Exceptions
        except Exception as error:
            raise InputError(
                f"{folder / 'tokenizer'} does not load ({line(error)})", "give an undamaged checkpoint"
            ) from error
        return cls(tokenizer, read_component(folder / "text_encoder", CLIPTextModel))

    def ids(self, text: str) -> Tensor:
        """int64 [tokens], padded as the checkpoint's tokenizer pads; ``InputError`` where the text is too long."""
        length = self.model.config.max_position_embeddings
        ids = self.tokenizer(text, padding="max_length", max_length=length, truncation=False).input_ids
        if len(ids) > length:
            raise InputError(f"the prompt takes {len(ids)} tokens", f"shorten model.prompt_text to {length} tokens")
        return torch.tensor(ids)

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """float [tokens, width] of ``text``."""
        return self.model(self.ids(text)[None]).last_hidden_state[0]


class NewWord(nn.Module):
    """A prompt with the word ``[MOUSE]``, whose row of the embedding table alone is trained.

    The row starts at the mean of those of "mouse" (Gal et al. 2022, Textual Inversion, start from a coarse word).
    """

    place: Tensor
    """bool [tokens], where the word stands."""
    ids: Tensor
    """int64 [tokens]"""

    def __init__(self, encoder: TextEncoder, text: str) -> None:
        super().__init__()
        tokenizer = encoder.tokenizer
        tokenizer.add_tokens([NEW_WORD])
        number = tokenizer.convert_tokens_to_ids(NEW_WORD)
        ids = encoder.ids(text)
        self.text_encoder = encoder.model
        self.register_buffer("place", ids == number, persistent=False)
        self.register_buffer("ids", torch.where(ids == number, 0, ids), persistent=False)
        start: Sequence[int] = tokenizer("mouse", add_special_tokens=False).input_ids
        table = self._table.weight
        self.row = nn.Parameter(table[list(start)].mean(0).detach().clone())

    @property
    def _table(self) -> nn.Embedding:
        return self.text_encoder.get_input_embeddings()

    def forward(self) -> Tensor:
        """float [tokens, width]: the encoded prompt, with a gradient to the row."""

        def insert(_layer: nn.Module, _ids: Any, embedded: Tensor) -> Tensor:
            return torch.where(self.place[:, None], self.row, embedded)

        # For this call only: a hook that stayed would be shared by copies of this module, with one copy's row.
        hook = self._table.register_forward_hook(insert)
        try:
            return self.text_encoder(self.ids[None]).last_hidden_state[0]
        finally:
            hook.remove()
