"""Attention processors that let the views of a sample see each other and the condition.

They take the place of diffusers' own (``UNet2DConditionModel.set_attn_processor``) and hold no weights: a UNet saved
with them is a plain ``UNet2DConditionModel``.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional


@dataclass
class Joint:
    """What the attention layers of one UNet pass share; handed to them as ``cross_attention_kwargs={"joint": ...}``."""

    views: int
    """Consecutive rows of the batch that are of one sample: its views, and its reference where that rides along."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """Input of each self-attention layer on the reference pass: float [B, tokens, width]. It is read, never consumed:
    gradient checkpointing runs a layer twice."""
    keep: bool = False
    """This is the reference pass: fill ``reference`` instead of attending to it."""
    rides: bool = False
    """The last of those rows is the sample's reference, in the same pass: the others attend to it as well, it to itself
    alone."""


class JointAttention:
    """Self-attention over all views of a sample and the tokens of its reference.

    The reference enters keys and values only (reference attention: the layer's normed input where the same network sees
    the condition, in a pass before or in a row of this one).
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        joint: Joint,
    ) -> Tensor:
        """float [B V, tokens, width] -> the same shape."""
        if joint.keep:
            joint.reference[self.layer] = hidden_states
        rows, tokens, width = hidden_states.shape
        together = hidden_states.reshape(rows // joint.views, joint.views * tokens, width)  # [B, V tokens, width]
        seen = together
        if not joint.keep and joint.reference:
            seen = torch.cat([together, joint.reference[self.layer]], 1)  # [B, V tokens + reference tokens, width]
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, heads, tokens, head width]
            for projected in (attn.to_q(together), attn.to_k(seen), attn.to_v(seen))
        )
        if joint.rides:
            of_views, of_reference = query.split([(joint.views - 1) * tokens, tokens], 2)
            out = torch.cat(
                [
                    functional.scaled_dot_product_attention(of_views, key, value),
                    functional.scaled_dot_product_attention(of_reference, key[:, :, -tokens:], value[:, :, -tokens:]),
                ],
                2,
            )
        else:
            out = functional.scaled_dot_product_attention(query, key, value)
        out = attn.to_out[0](out.transpose(1, 2).reshape(rows, tokens, -1))
        return attn.to_out[1](out)


class ContextAttention:
    """Cross-attention as diffusers does it, but that rows which share a context attend to one copy of it.

    ``joint``, which diffusers hands to every layer, is only tolerated.
    """

    def __init__(self) -> None:
        self.attend = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        joint: Joint,
    ) -> Tensor:
        """float [N, tokens, width] attends to ``encoder_hidden_states`` float [M, context tokens, its width].

        M divides N: consecutive rows share a context.
        """
        assert encoder_hidden_states is not None
        sharing = hidden_states.unflatten(0, (len(encoder_hidden_states), -1)).flatten(1, 2)
        return self.attend(attn, sharing, encoder_hidden_states, attention_mask).reshape(hidden_states.shape)


def install(unet: UNet2DConditionModel) -> None:
    """Give each self-attention of ``unet`` a ``JointAttention``, each cross-attention a ``ContextAttention``."""
    processors: dict[str, Any] = {
        name: JointAttention(name) if ".attn1." in name else ContextAttention() for name in unet.attn_processors
    }
    unet.set_attn_processor(processors)
