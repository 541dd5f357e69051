"""Which tensors the published networks have, and of which shapes, as their configurations say.

Loading tells the same, but minutes and a queue later: diffusers and transformers draw what a file lacks at random and
only warn. Names and shapes are those of UNet2DConditionModel, AutoencoderKL, CLIPTextModel and
CLIPVisionModelWithProjection, the last two without the prefixes ``text_model.`` and ``vision_model.``, which some
versions of transformers write and others do not.
"""

from typing import Any

from mvdiff.model.pretrained.jsonfile import JsonFile

_MAX_LAYERS = 64
_MAX_LEVELS = 8

_STOCK_UNET: dict[str, Any] = {
    "addition_embed_type": None,
    "attention_type": "default",
    "class_embed_type": None,
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_STOCK_VAE = {
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


class Blueprint(dict[str, tuple[int, ...]]):
    """{name: shape}, made of layers."""

    def linear(self, name: str, into: int, out: int, bias: bool = True) -> None:
        """A matrix and, as a rule, a bias."""
        self[f"{name}.weight"] = (out, into)
        if bias:
            self[f"{name}.bias"] = (out,)

    def conv(self, name: str, into: int, out: int, kernel: int = 3) -> None:
        """A convolution with a bias."""
        self[f"{name}.weight"] = (out, into, kernel, kernel)
        self[f"{name}.bias"] = (out,)

    def norm(self, *names: str, width: int) -> None:
        """Group or layer norms."""
        for name in names:
            self[f"{name}.weight"] = self[f"{name}.bias"] = (width,)

    def resnet(self, name: str, into: int, out: int, time: int = 0) -> None:
        """A residual block; ``time`` is the width of the time embedding, 0 where it sees none."""
        self.norm(f"{name}.norm1", width=into)
        self.conv(f"{name}.conv1", into, out)
        if time:
            self.linear(f"{name}.time_emb_proj", time, out)
        self.norm(f"{name}.norm2", width=out)
        self.conv(f"{name}.conv2", out, out)
        if into != out:
            self.conv(f"{name}.conv_shortcut", into, out, 1)

    def transformer(self, name: str, width: int, context: int, depth: int, linear: bool) -> None:
        """Self-attention, cross-attention to a context and a gated feed-forward, ``depth`` times."""
        self.norm(f"{name}.norm", width=width)
        for end in ("proj_in", "proj_out"):
            if linear:
                self.linear(f"{name}.{end}", width, width)
            else:
                self.conv(f"{name}.{end}", width, width, 1)
        for k in range(depth):
            block = f"{name}.transformer_blocks.{k}"
            self.norm(*(f"{block}.norm{n}" for n in (1, 2, 3)), width=width)
            for attention, seen in (("attn1", width), ("attn2", context)):
                self.linear(f"{block}.{attention}.to_q", width, width, bias=False)
                self.linear(f"{block}.{attention}.to_k", seen, width, bias=False)
                self.linear(f"{block}.{attention}.to_v", seen, width, bias=False)
                self.linear(f"{block}.{attention}.to_out.0", width, width)
            self.linear(f"{block}.ff.net.0.proj", width, 8 * width)
            self.linear(f"{block}.ff.net.2", 4 * width, width)

    def clip_layers(self, config: JsonFile, width: int) -> None:
        """The transformer layers of a CLIP encoder."""
        inner = config.integer("intermediate_size")
        _divides(config, "num_attention_heads", [config.integer("num_attention_heads")], [width])
        for k in range(config.integer("num_hidden_layers", most=_MAX_LAYERS)):
            layer = f"encoder.layers.{k}"
            for end in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{layer}.self_attn.{end}", width, width)
            self.norm(f"{layer}.layer_norm1", f"{layer}.layer_norm2", width=width)
            self.linear(f"{layer}.mlp.fc1", width, inner)
            self.linear(f"{layer}.mlp.fc2", inner, width)


def unet(config: JsonFile) -> Blueprint:
    """UNet2DConditionModel as Stable Diffusion has it; ``InputError`` where ``config`` says another one."""
    for name, stock in _STOCK_UNET.items():
        config.require(name, stock, missing=stock)
    widths = _widths(config)
    levels = len(widths)
    with_attention = _attended(config, "down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"), levels)
    with_attention_up = _attended(config, "up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D"), levels)
    layers = config.integers("layers_per_block", levels, most=_MAX_LAYERS)
    depths = config.integers("transformer_layers_per_block", levels, missing=1, most=_MAX_LAYERS)
    heads = config.integers("attention_head_dim", levels)
    _divides(config, "attention_head_dim", heads, widths)
    context = config.integer("cross_attention_dim")
    linear = config.values.get("use_linear_projection", False) is True
    time = 4 * widths[0]

    plan = Blueprint()
    plan.conv("conv_in", config.integer("in_channels"), widths[0])
    plan.linear("time_embedding.linear_1", widths[0], time)
    plan.linear("time_embedding.linear_2", time, time)
    for k, width in enumerate(widths):
        block = f"down_blocks.{k}"
        for j in range(layers[k]):
            plan.resnet(f"{block}.resnets.{j}", widths[max(k - 1, 0)] if j == 0 else width, width, time)
            if with_attention[k]:
                plan.transformer(f"{block}.attentions.{j}", width, context, depths[k], linear)
        if k < levels - 1:
            plan.conv(f"{block}.downsamplers.0.conv", width, width)
    for j in range(2):
        plan.resnet(f"mid_block.resnets.{j}", widths[-1], widths[-1], time)
    plan.transformer("mid_block.attentions.0", widths[-1], context, depths[-1], linear)
    for k in range(levels):
        level = levels - 1 - k
        block, width, last = f"up_blocks.{k}", widths[level], layers[level]
        for j in range(last + 1):
            below = widths[min(level + 1, levels - 1)] if j == 0 else width
            beside = widths[max(level - 1, 0)] if j == last else width
            plan.resnet(f"{block}.resnets.{j}", below + beside, width, time)
            if with_attention_up[k]:
                plan.transformer(f"{block}.attentions.{j}", width, context, depths[level], linear)
        if level:
            plan.conv(f"{block}.upsamplers.0.conv", width, width)
    plan.norm("conv_norm_out", width=widths[0])
    plan.conv("conv_out", widths[0], config.integer("out_channels"))
    return plan


def vae(config: JsonFile) -> Blueprint:
    """AutoencoderKL; ``InputError`` where ``config`` says one of another make."""
    for name, stock in _STOCK_VAE.items():
        config.require(name, stock, missing=stock)
    widths = _widths(config)
    levels, latent = len(widths), config.integer("latent_channels")
    _attended(config, "down_block_types", ("DownEncoderBlock2D",), levels)
    _attended(config, "up_block_types", ("UpDecoderBlock2D",), levels)
    layers = config.integer("layers_per_block", most=_MAX_LAYERS)

    plan = Blueprint()
    plan.conv("encoder.conv_in", 3, widths[0])
    for k, width in enumerate(widths):
        block = f"encoder.down_blocks.{k}"
        for j in range(layers):
            plan.resnet(f"{block}.resnets.{j}", widths[max(k - 1, 0)] if j == 0 else width, width)
        if k < levels - 1:
            plan.conv(f"{block}.downsamplers.0.conv", width, width)
    for half in ("encoder", "decoder"):
        plan.resnet(f"{half}.mid_block.resnets.0", widths[-1], widths[-1])
        plan.norm(f"{half}.mid_block.attentions.0.group_norm", width=widths[-1])
        for end in ("to_q", "to_k", "to_v", "to_out.0"):
            plan.linear(f"{half}.mid_block.attentions.0.{end}", widths[-1], widths[-1])
        plan.resnet(f"{half}.mid_block.resnets.1", widths[-1], widths[-1])
    plan.norm("encoder.conv_norm_out", width=widths[-1])
    plan.conv("encoder.conv_out", widths[-1], 2 * latent)
    plan.conv("quant_conv", 2 * latent, 2 * latent, 1)
    plan.conv("post_quant_conv", latent, latent, 1)
    plan.conv("decoder.conv_in", latent, widths[-1])
    for k in range(levels):
        level = levels - 1 - k
        block, width = f"decoder.up_blocks.{k}", widths[level]
        for j in range(layers + 1):
            plan.resnet(f"{block}.resnets.{j}", widths[min(level + 1, levels - 1)] if j == 0 else width, width)
        if level:
            plan.conv(f"{block}.upsamplers.0.conv", width, width)
    plan.norm("decoder.conv_norm_out", width=widths[0])
    plan.conv("decoder.conv_out", widths[0], 3)
    return plan


def text_encoder(config: JsonFile) -> Blueprint:
    """CLIPTextModel."""
    width = config.integer("hidden_size")
    plan = Blueprint()
    plan["embeddings.token_embedding.weight"] = (config.integer("vocab_size"), width)
    plan["embeddings.position_embedding.weight"] = (config.integer("max_position_embeddings"), width)
    plan.clip_layers(config, width)
    plan.norm("final_layer_norm", width=width)
    return plan


def vision_encoder(config: JsonFile) -> Blueprint:
    """CLIPVisionModelWithProjection."""
    config.require("num_channels", 3, missing=3)
    width, patch = config.integer("hidden_size"), config.integer("patch_size")
    plan = Blueprint()
    plan["embeddings.class_embedding"] = (width,)
    plan["embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    plan["embeddings.position_embedding.weight"] = ((config.integer("image_size") // patch) ** 2 + 1, width)
    plan.norm("pre_layrnorm", width=width)
    plan.clip_layers(config, width)
    plan.norm("post_layernorm", width=width)
    plan.linear("visual_projection", width, config.integer("projection_dim"), bias=False)
    return plan


def _widths(config: JsonFile) -> list[int]:
    listed = config.values.get("block_out_channels")
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_LEVELS:
        raise config.wrong("block_out_channels", "a list of widths")
    widths = config.integers("block_out_channels", len(listed))
    _divides(config, "norm_num_groups", [config.integer("norm_num_groups")] * len(widths), widths)
    return widths


def _divides(config: JsonFile, name: str, divisors: list[int], widths: list[int]) -> None:
    if any(width % divisor for width, divisor in zip(widths, divisors, strict=True)):
        raise config.wrong(name, f"a divisor of the width ({', '.join(map(str, widths))})")


def _attended(config: JsonFile, name: str, kinds: tuple[str, ...], levels: int) -> list[bool]:
    """Which levels have attention: those of the second of ``kinds``."""
    listed = config.values.get(name)
    if not isinstance(listed, list) or len(listed) != levels or any(kind not in kinds for kind in listed):
        raise config.wrong(name, f"a list of {levels} of {', '.join(kinds)}")
    return [kind == kinds[-1] and len(kinds) > 1 for kind in listed]
