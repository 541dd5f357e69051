import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mvdiff.errors import InputError
from mvdiff.model.pretrained import conformity, inspect
from tests.mvdiff.model.pretrained.files import (
    CLIP,
    CONDITION,
    INDEX,
    POINTER,
    SCHEDULER,
    TEXT,
    UNET,
    VAE,
    VISION,
    edit,
    recast,
    rename,
    replace_header,
    reshape,
    shard,
)
from tests.mvdiff.model.pretrained.refusal import refusal
from tests.mvdiff.model.published import write_zero123plus


def test_a_published_zero123plus_is_read(plus):
    found = inspect(plus, half=False)
    assert (found.kind, found.folder, found.condition_size) == ("zero123plus", plus, 64)
    assert found.index == json.loads((plus / INDEX).read_text())
    assert found.ramp == tuple(found.index["ramping_coefficients"])
    assert found.config("unet") == json.loads((plus / "unet" / "config.json").read_text())
    assert found.config("scheduler")["beta_schedule"] == "linear"
    assert found.config("feature_extractor_vae")["image_std"] == [0.8] * 3


def test_a_published_stable_diffusion_is_read(stable):
    found = inspect(stable, half=False)
    assert (found.kind, found.ramp, found.condition_size) == ("stable-diffusion", None, None)
    edit(stable / SCHEDULER, beta_schedule="linear")
    assert inspect(stable, half=False).config("scheduler")["beta_schedule"] == "linear"


def test_versions_of_the_published_files_are_read(tmp_path):
    """v1.2: a float32 UNet, all else float16; new names in the VAE; no position numbers; sizes of the default."""
    folder = write_zero123plus(
        tmp_path, others_dtype=torch.float16, old_vae_names=False, position_ids=False, condition_resize=False
    )
    inspect(folder, half=False)


@pytest.mark.parametrize("part", [TEXT, VISION])
def test_clip_without_its_prefix_is_read(plus, part):
    rename(plus / part, "text_model." if part == TEXT else "vision_model.", "")
    inspect(plus, half=False)


def test_an_image_processor_of_an_old_version_is_read(plus):
    edit(plus / CLIP, crop_size=28, size=28)
    edit(plus / CONDITION, crop_size=96)
    edit(plus / INDEX, feature_extractor_vae=["transformers", "CLIPFeatureExtractor"])
    assert inspect(plus, half=False).condition_size == 96


def test_a_tokenizer_of_a_new_version_is_read(plus):
    tokenizer = plus / "tokenizer"
    vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    for name in ("vocab.json", "merges.txt"):
        (tokenizer / name).unlink()
    inspect(plus, half=False)
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary | {"mouse": 10**6}}}))
    assert "numbers its tokens up to 1000000" in refusal(plus)


@pytest.mark.parametrize("part", [UNET, VAE, TEXT, VISION])
def test_sharded_weights_are_read(plus, part):
    before = inspect(plus, half=False)
    shard(plus / part)
    after = inspect(plus, half=False)
    name = Path(part).parent.name
    assert len(after.weights[name].files) == 2
    assert after.weights[name].tensors == before.weights[name].tensors


def test_a_stray_pickle_or_half_download_beside_good_weights_does_no_harm(plus):
    for name in ("diffusion_pytorch_model.bin", "abc.incomplete", "diffusion_pytorch_model.fp16.safetensors"):
        (plus / "unet" / name).write_bytes(b"")
    inspect(plus, half=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_of_the_unet_is_accepted_only_if_asked_for(plus, dtype):
    for part in (UNET, VAE, TEXT, VISION):
        recast(plus / part, dtype)
    assert f"holds {str(dtype)[6:]} weights, the run trains float32 copies" in refusal(plus)
    assert "model.accept_half=true" in refusal(plus)
    inspect(plus, half=True)


PUBLISHED = {
    "no index": (lambda f: (f / INDEX).unlink(), ["no model in", INDEX]),
    "index not JSON": (lambda f: (f / INDEX).write_text("{"), [INDEX, "is not JSON"]),
    "index no text": (lambda f: (f / INDEX).write_bytes(b"\xff\xfe"), [INDEX, "is not JSON"]),
    "index of lists": (lambda f: (f / INDEX).write_text("[" * 100_000), [INDEX, "is not JSON"]),
    "index no object": (lambda f: (f / INDEX).write_text("[]"), [INDEX, "no JSON object"]),
    "index a pointer": (lambda f: (f / INDEX).write_text(POINTER), [INDEX, "git-lfs pointer"]),
    "other pipeline": (
        lambda f: edit(f / INDEX, _class_name="StableDiffusionXLPipeline"),
        [INDEX, "StableDiffusionXLPipeline", "Zero123PlusPipeline, StableDiffusionPipeline, MultiViewPipeline"],
    ),
    "no pipeline": (lambda f: edit(f / INDEX, drop="_class_name"), ["names the class None"]),
    "odd pipeline": (lambda f: edit(f / INDEX, _class_name=["a\n"] * 999), ["names the class ['a\\n'"]),
    "vae null": (lambda f: edit(f / INDEX, vae=[None, None]), [INDEX, "names no vae"]),
    "odd class": (lambda f: edit(f / INDEX, vae=["diffusers", ["AutoencoderKL"]]), ["['AutoencoderKL'] as its vae"]),
    "no component folder": (lambda f: shutil.rmtree(f / "vae"), ["lacks its folder", "/vae"]),
    "no config": (lambda f: (f / "vae" / "config.json").unlink(), ["vae/config.json is missing"]),
    "broken config": (lambda f: (f / "vae" / "config.json").write_text("{}}"), ["vae/config.json is not JSON"]),
    "config of another": (
        lambda f: edit(f / "unet/config.json", _class_name="UNet3DConditionModel"),
        ["unet/config.json says _class_name='UNet3DConditionModel'", "'UNet2DConditionModel' is wanted"],
    ),
    "config of another CLIP": (
        lambda f: edit(f / "text_encoder/config.json", architectures=["CLIPTextModelWithProjection"]),
        ["text_encoder/config.json", "CLIPTextModelWithProjection", "['CLIPTextModel'] is wanted"],
    ),
    "no weights": (lambda f: (f / UNET).unlink(), ["unet has no diffusion_pytorch_model.safetensors"]),
    "weights gone": (
        lambda f: (f / UNET).unlink() or (f / UNET).symlink_to("../../blobs/4d7a2146"),
        [UNET, "links to a file that is gone"],
    ),
    "pickle": (
        lambda f: (f / UNET).rename((f / UNET).with_suffix(".bin")),
        ["holds diffusion_pytorch_model.bin, a pickle", "nothing is unpickled", "safe_serialization=True"],
    ),
    "pickle of transformers": (
        lambda f: (f / TEXT).rename(f / "text_encoder" / "pytorch_model.bin"),
        ["text_encoder holds pytorch_model.bin, a pickle"],
    ),
    "half variant": (
        lambda f: (f / UNET).rename((f / UNET).with_suffix(".fp16.safetensors")),
        ["unet holds diffusion_pytorch_model.fp16.safetensors only, a variant"],
    ),
    "download not done": (
        lambda f: (f / TEXT).rename(f / "text_encoder" / "4d7a2146.incomplete"),
        ["text_encoder has no model.safetensors, only a part of a download"],
    ),
    "download into the folder not done": (
        lambda f: (
            (waiting := f / ".cache/huggingface/download/text_encoder").mkdir(parents=True)
            or (f / TEXT).rename(waiting / "4d7a2146.incomplete")
        ),
        ["text_encoder has no model.safetensors, only a part of a download"],
    ),
    "empty weights": (lambda f: (f / UNET).write_bytes(b""), [UNET, "is empty"]),
    "weights a pointer": (lambda f: (f / UNET).write_text(POINTER), [UNET, "git-lfs pointer", "git lfs pull"]),
    "cut in the data": (lambda f: os.truncate(f / UNET, (f / UNET).stat().st_size - 1), [UNET, "is cut off"]),
    "cut in the header": (lambda f: os.truncate(f / UNET, 99), [UNET, "is cut off: 99 bytes", "header alone"]),
    "cut in the length": (lambda f: os.truncate(f / UNET, 7), [UNET, "is cut off after 7 bytes"]),
    "too long": (lambda f: (f / UNET).open("ab").write(b"\0" * 5), [UNET, "is 5 bytes longer than its header says"]),
    "a page instead": (lambda f: (f / UNET).write_text("<!DOCTYPE html>" * 9), [UNET, "no safetensors file"]),
    "header not JSON": (
        lambda f: replace_header(f / UNET, lambda header: header.rstrip()[:-1] + b"]"),
        [UNET, "broken header"],
    ),
    "overlap": (
        lambda f: replace_header(f / UNET, lambda text: text.replace(b'"data_offsets":[128,', b'"data_offsets":[0,')),
        [UNET, "broken header"],
    ),
    "a name twice": (
        lambda f: replace_header(f / VAE, lambda text: text.replace(b"encoder.conv_in.", b"encoder.conv_out.")),
        [VAE, "a name twice"],
    ),
    "both single and sharded": (
        lambda f: (weights := (f / UNET).read_bytes()) and shard(f / UNET) and (f / UNET).write_bytes(weights),
        ["unet holds both"],
    ),
    "a shard missing": (
        lambda f: (f / "unet" / shard(f / UNET)[1]).unlink(),
        ["diffusion_pytorch_model-00002-of-00002.safetensors is missing"],
    ),
    "a shard cut": (
        lambda f: os.truncate(f / "unet" / shard(f / UNET)[1], 1000),
        ["diffusion_pytorch_model-00002-of-00002.safetensors is cut off"],
    ),
    "shards without index": (
        lambda f: shard(f / UNET) and (f / f"{UNET}.index.json").unlink(),
        ["unet holds diffusion_pytorch_model-00001-of-00002.safetensors and no", "index.json"],
    ),
    "shards that disagree": (
        lambda f: reshape(f / "unet" / shard(f / UNET)[0], "odd.weight", 3),
        ["disagree", "'odd.weight' is in diffusion_pytorch_model-00001-of-00002.safetensors alone"],
    ),
    "an index without map": (
        lambda f: shard(f / UNET) and edit(f / f"{UNET}.index.json", weight_map=[]),
        ["index.json says weight_map=[]"],
    ),
    "an index that leaves the folder": (
        lambda f: shard(f / UNET) and edit(f / f"{UNET}.index.json", weight_map={"conv_in.bias": f"../../{VAE}"}),
        ["index.json names a file '../../vae", "plain names"],
    ),
    "an index of absolute paths": (
        lambda f: shard(f / UNET) and edit(f / f"{UNET}.index.json", weight_map={"conv_in.bias": str(f / VAE)}),
        ["index.json names a file '/", "plain names"],
    ),
    "mixed precision": (lambda f: recast(f / UNET, torch.float16, "conv_in"), [UNET, "holds float16 and float32"]),
    "float8": (lambda f: recast(f / UNET, torch.float8_e4m3fn), [UNET, "holds F8_E4M3 weights"]),
    "double": (lambda f: recast(f / TEXT, torch.float64), [TEXT, "holds F64 weights"]),
    "integers": (lambda f: recast(f / VAE, torch.int32), [VAE, "holds I32 weights"]),
    "latents of 9 channels": (lambda f: edit(f / "unet/config.json", in_channels=9), ["in_channels=9", "4 is wanted"]),
    "latents of 16 channels": (lambda f: edit(f / "vae/config.json", latent_channels=16), ["latent_channels=16"]),
    "another scaling": (lambda f: edit(f / "vae/config.json", scaling_factor=0.13025), ["scaling_factor=0.13025"]),
    "conv_in": (
        lambda f: reshape(f / UNET, "conv_in.weight", 32, 9, 3, 3),
        [UNET, "conv_in.weight of shape [32, 9, 3, 3]", "asks for [32, 4, 3, 3]"],
    ),
    "conv_out": (lambda f: reshape(f / UNET, "conv_out.weight", 8, 32, 3, 3), ["conv_out.weight of shape [8, 32"]),
    "time embedding": (lambda f: edit(f / "unet/config.json", block_out_channels=[64, 32, 32, 32]), ["[64, 4, 3, 3]"]),
    "more layers said": (
        lambda f: edit(f / "unet/config.json", layers_per_block=2),
        [UNET, "lacks down_blocks.0.resnets.1.norm1.weight", "unet/config.json asks for"],
    ),
    "a layer more": (
        lambda f: reshape(f / UNET, "down_blocks.0.resnets.1.norm1.weight", 32),
        [UNET, "holds 'down_blocks.0.resnets.1.norm1.weight'", "does not ask for"],
    ),
    "one weight missing": (
        lambda f: rename(f / UNET, "mid_block.resnets.1.conv2.bias", "mid_block.resnets.9.conv2.bias"),
        [UNET, "lacks mid_block.resnets.1.conv2.bias"],
    ),
    "heads": (lambda f: edit(f / "unet/config.json", attention_head_dim=[3] * 4), ["attention_head_dim", "divisor"]),
    "another block": (
        lambda f: edit(f / "unet/config.json", up_block_types=["SkipUpBlock2D"] * 4),
        ["up_block_types", "SkipUpBlock2D", "CrossAttnUpBlock2D"],
    ),
    "another make of UNet": (
        lambda f: edit(f / "unet/config.json", addition_embed_type="text_time"),
        ["unet/config.json says addition_embed_type='text_time'", "None is wanted"],
    ),
    "endless layers": (lambda f: edit(f / "unet/config.json", layers_per_block=10**9), ["layers_per_block=1000000000"]),
    "vae": (lambda f: reshape(f / VAE, "quant_conv.weight", 16, 16, 1, 1), [VAE, "quant_conv.weight", "[8, 8, 1, 1]"]),
    "vae pictures": (lambda f: reshape(f / VAE, "encoder.conv_in.weight", 32, 4, 3, 3), [VAE, "[32, 3, 3, 3]"]),
    "vae layers": (lambda f: edit(f / "vae/config.json", layers_per_block=2), [VAE, "lacks encoder.down_blocks.0"]),
    "vocabulary too large": (
        lambda f: edit(f / "tokenizer/vocab.json", mouse=10_000),
        ["tokenizer/vocab.json numbers its tokens up to 10000", "vocab_size="],
    ),
    "no vocabulary": (lambda f: (f / "tokenizer/vocab.json").unlink(), ["tokenizer/vocab.json is missing"]),
    "odd vocabulary": (lambda f: edit(f / "tokenizer/vocab.json", mouse="cat"), ["vocab.json holds no vocabulary"]),
    "no merges": (lambda f: (f / "tokenizer/merges.txt").write_text(""), ["merges.txt is missing or empty"]),
    "token table": (
        lambda f: reshape(f / TEXT, "text_model.embeddings.token_embedding.weight", 5, 32),
        [TEXT, "embeddings.token_embedding.weight of shape [5, 32]"],
    ),
    "positions": (
        lambda f: reshape(f / TEXT, "text_model.embeddings.position_embedding.weight", 64, 32),
        [TEXT, "embeddings.position_embedding.weight of shape [64, 32]", "[77, 32]"],
    ),
    "prompt length": (
        lambda f: edit(f / "text_encoder/config.json", max_position_embeddings=248),
        ["max_position_embeddings=248", "77 is wanted"],
    ),
    "text layers": (lambda f: edit(f / "text_encoder/config.json", num_hidden_layers=1), [TEXT, "does not ask for"]),
    "epsilon": (
        lambda f: edit(f / SCHEDULER, prediction_type="epsilon"),
        [SCHEDULER, "predicts epsilon, as that of SD 2.1-base does"],
    ),
    "epsilon by default": (lambda f: edit(f / SCHEDULER, drop="prediction_type"), [SCHEDULER, "predicts epsilon"]),
    "sample": (lambda f: edit(f / SCHEDULER, prediction_type="sample"), [SCHEDULER, "'v_prediction' is wanted"]),
    "steps": (lambda f: edit(f / SCHEDULER, num_train_timesteps=4), [SCHEDULER, "num_train_timesteps=4", "1000"]),
    "beta_start": (lambda f: edit(f / SCHEDULER, drop="beta_start"), [SCHEDULER, "does not say beta_start", "0.00085"]),
    "beta_end": (lambda f: edit(f / SCHEDULER, beta_end=0.02), [SCHEDULER, "beta_end=0.02", "0.012 is wanted"]),
    "betas": (lambda f: edit(f / SCHEDULER, beta_schedule="squaredcos_cap_v2"), [SCHEDULER, "squaredcos_cap_v2"]),
    "trained betas": (lambda f: edit(f / SCHEDULER, trained_betas=[0.1] * 1000), [SCHEDULER, "trained_betas=[0.1"]),
}  # fmt: skip


@pytest.mark.parametrize("damage", PUBLISHED)
@pytest.mark.parametrize("kind", ["plus", "stable"])
def test_damage_is_told_in_one_line(request, kind, damage):
    folder = request.getfixturevalue(kind)
    inflict, expected = PUBLISHED[damage]
    inflict(folder)
    text = refusal(folder)
    for part in expected:
        assert part in text


PLUS_ONLY = {
    "scaled betas": (lambda f: edit(f / SCHEDULER, beta_schedule="scaled_linear"), [SCHEDULER, "'linear' is wanted"]),
    "no ramp": (lambda f: edit(f / INDEX, drop="ramping_coefficients"), ["does not say ramping_coefficients", "77"]),
    "short ramp": (lambda f: edit(f / INDEX, ramping_coefficients=[0.1] * 76), ["says 76 ramping_coefficients"]),
    "ramp of no numbers": (lambda f: edit(f / INDEX, ramping_coefficients=[float("nan")] * 77), ["77 numbers"]),
    "ramp beyond floats": (lambda f: edit(f / INDEX, ramping_coefficients=[10**400] * 77), ["77 numbers"]),
    "vision without projection": (
        lambda f: edit(f / INDEX, vision_encoder=["transformers", "CLIPVisionModel"]),
        ["'CLIPVisionModel' as its vision_encoder", "CLIPVisionModelWithProjection is what"],
    ),
    "image embeddings": (
        lambda f: edit(f / "vision_encoder/config.json", projection_dim=1024),
        ["wrong width of image embeddings", "says 1024 (as in SD 2.1)", "wants 32"],
    ),
    "projection": (
        lambda f: reshape(f / VISION, "visual_projection.weight", 16, 32),
        [VISION, "visual_projection.weight of shape [16, 32]", "[32, 32]"],
    ),
    "vision a pickle": (lambda f: (f / VISION).rename((f / VISION).with_suffix(".bin")), ["vision_encoder holds"]),
    "mean": (lambda f: edit(f / CLIP, image_mean=[0.5] * 3), [CLIP, "image_mean=[0.5, 0.5, 0.5]", "0.48145466"]),
    "deviation": (lambda f: edit(f / CLIP, image_std=[0.5] * 3), [CLIP, "image_std", "0.26862954"]),
    "crop": (lambda f: edit(f / CLIP, crop_size=32), [CLIP, "crop_size=32", "28, the image_size"]),
    "condition mean": (lambda f: edit(f / CONDITION, image_mean=[0.4] * 3), [CONDITION, "0.5, 0.5, 0.5 is wanted"]),
    "condition deviation": (lambda f: edit(f / CONDITION, image_std=[0.5] * 3), [CONDITION, "0.8, 0.8, 0.8 is wanted"]),
    "condition crop": (
        lambda f: edit(f / CONDITION, crop_size={"height": 512, "width": 320}),
        [CONDITION, "crop_size", "a square is wanted"],
    ),
    "condition not cropped": (lambda f: edit(f / CONDITION, do_center_crop=False), [CONDITION, "do_center_crop=False"]),
}  # fmt: skip


@pytest.mark.parametrize("damage", PLUS_ONLY)
def test_damage_of_what_zero123plus_has_besides(plus, damage):
    inflict, expected = PLUS_ONLY[damage]
    inflict(plus)
    text = refusal(plus)
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    "name",
    [*conformity.ZERO123PLUS],
)
def test_a_component_that_is_not_named_or_of_another_class(plus, name):
    edit(plus / INDEX, **{name: ["transformers", "T5EncoderModel"]})
    assert f"names 'T5EncoderModel' as its {name}" in refusal(plus)
    edit(plus / INDEX, drop=name)
    assert f"{INDEX} names no {name}" in refusal(plus)


def test_a_folder_that_cannot_be_asked_for_is_refused():
    assert "cannot be read (File name too long)" in refusal(Path("x" * 300))


def test_text_embeddings_of_another_width(stable):
    edit(stable / "text_encoder" / "config.json", hidden_size=768)
    edit(stable / "unet" / "config.json", cross_attention_dim=1024)
    text = refusal(stable)
    assert "wrong width of text embeddings" in text
    assert "text_encoder/config.json says 768 (as in SD 1.5)" in text
    assert "unet/config.json wants 1024 (as in SD 2.1)" in text


def test_cross_attention_of_another_width(stable):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    reshape(stable / UNET, name, 32, 24)
    assert f"{name} of shape [32, 24]" in refusal(stable)


def test_a_fingerprint_names_the_weights(plus, tmp_path):
    before = inspect(plus, half=False).fingerprint()
    assert len(before) == 32
    moved = shutil.copytree(plus, tmp_path / "elsewhere")
    edit(moved / "unet" / "config.json", _diffusers_version="9")
    assert inspect(moved, half=False).fingerprint() == before
    vocabulary = (moved / "tokenizer" / "merges.txt").read_text()
    (moved / "tokenizer" / "merges.txt").write_text(vocabulary + "m o\n")
    assert inspect(moved, half=False).fingerprint() != before
    (moved / "tokenizer" / "merges.txt").write_text(vocabulary)
    edit(moved / "unet" / "config.json", norm_num_groups=16)
    assert inspect(moved, half=False).fingerprint() != before
    edit(moved / "unet" / "config.json", norm_num_groups=32)
    assert inspect(moved, half=False).fingerprint() == before
    weights = load_file(moved / UNET)
    weights["up_blocks.1.attentions.0.proj_out.bias"] += 0.5
    save_file(weights, moved / UNET, metadata={"format": "pt"})
    assert inspect(moved, half=False).fingerprint() != before


def test_a_fingerprint_of_a_file_that_is_gone(plus):
    found = inspect(plus, half=False)
    (plus / VAE).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        found.fingerprint()


def test_nothing_heavy_is_imported(plus):
    code = (
        "import sys; from pathlib import Path; from mvdiff.model.pretrained import find, inspect;"
        "inspect(find(sys.argv[1]), half=False).fingerprint();"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code, str(plus)], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "huggingface_hub"} & set(run.stdout.split())
    assert run.stderr == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="session")
def victim(originals, tmp_path_factory):
    folder = shutil.copytree(originals / "zero123plus", tmp_path_factory.mktemp("victim") / "zero123plus")
    shard(folder / VAE)
    return folder


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_value_in_any_json_file_raises_nothing_else(victim, data):
    file = data.draw(st.sampled_from(sorted(victim.rglob("*.json"))))
    before = file.read_text()
    content = json.loads(before)
    key = data.draw(st.sampled_from(sorted(content)[:60]))
    try:
        file.write_text(json.dumps(content | {key: data.draw(JSON)}))
        inspect(victim, half=False)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        file.write_text(before)
