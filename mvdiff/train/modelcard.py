"""The model card of a checkpoint: what it is, what it was trained on, and what may be done with it."""

import json

from mvdiff.model.context import LearnedContext
from mvdiff.model.multiview import MultiViewModel
from mvdiff.train.record import Record
from mvdiff.train.settings import TrainSettings

FILE = "README.md"

_LICENCES = {
    "zero123plus": (
        "cc-by-nc-4.0",
        "The weights derive from Zero123++, whose weights are under CC-BY-NC 4.0: no commercial use.",
    ),
    "stable-diffusion": (
        "openrail++",
        "The weights derive from Stable Diffusion 2.1, under CreativeML Open RAIL++-M: its use restrictions go on.",
    ),
}
_NO_BASE = ("other", "Trained from nothing: the licence is that of the data and of whoever trained it.")


def model_card(model: MultiViewModel, record: Record, step: int, loss: float | None) -> str:
    """Markdown with the front matter that model hubs read.

    ``step`` is the number of optimizer steps, ``loss`` the mean of the last one's global batch.
    """
    settings, training, data, origin = model.settings, record["train"], record["data"], model.origin
    licence, explained = _LICENCES.get(origin.get("family", ""), _NO_BASE)
    cameras = settings.cameras
    epochs = step * TrainSettings.read(training).own_batch / data["samples"]
    base = [f"base_model: {json.dumps(origin['name'])}"] if origin else []
    trained = {
        "full": "the whole UNet",
        "freeze_encoder": "the UNet but for its down blocks",
        "lora": f"a LoRA of rank {training['lora_rank']}, merged into `unet/`; apart in `unet_lora/`, for "
        "the UNet it began with: "
        '`unet.load_lora_adapter(FOLDER + "/unet_lora", prefix=None, use_safetensors=True)`',
    }[training["trainable"]]
    lines = [
        "---",
        f"license: {licence}",
        *base,
        "library_name: diffusers",
        "pipeline_tag: image-to-3d",
        "tags: [multi-view, diffusion, laboratory-mouse]",
        "---",
        "",
        f"# {settings.name}: six views of a mouse from one picture",
        "",
        "```python",
        "from mvdiff import MultiViewPipeline",
        "views = MultiViewPipeline.from_pretrained(FOLDER)([picture], seeds=[0])  # uint8 [1, 6, H, W, 3]",
        "```",
        "",
        '`diffusers` alone loads the network: `UNet2DConditionModel.from_pretrained(FOLDER + "/unet")`.',
        "",
        "| | |",
        "| --- | --- |",
        f"| base weights | {_base(model)} |",
        f"| data | {data['samples']} samples of six views, {settings.size} pixels, xxh3 {data['xxh3']} |",
        f"| cameras | {cameras.described} |",
        f"| layout, cameras told by | {settings.layout}, {settings.camera} |",
        f"| prompt | {_prompt(model)} |",
        f"| trained | {trained} |",
        f"| steps | {step} of {training['steps']} at batch {training['batch']} ({epochs:.2f} epochs), "
        f"learning rate {training['learning_rate']:g}, {training['schedule']} |",
        f"| training loss | {'none yet' if loss is None else f'{loss:.5f} (mean square error of v, last step)'} |",
        "| quality | `mvdiff evaluate` scores held-out pictures beside simple baselines |",
        f"| sampling | {settings.sampler}, {settings.steps} steps, guidance {settings.guidance:g} |",
        "",
        "## Licence",
        "",
        explained,
        "",
    ]
    return "\n".join(lines)


def _base(model: MultiViewModel) -> str:
    if not model.origin:
        return "none, trained from nothing"
    through = f"; trained on from {model.origin['through']}" if "through" in model.origin else ""
    return f"{model.origin['name']} ({model.origin['family']}), xxh3 {model.origin['xxh3']}{through}"


def _prompt(model: MultiViewModel) -> str:
    """What the stored embedding is of, whatever this run's settings call it."""
    if isinstance(model.context, LearnedContext):
        return "learned, of no text"
    held = model.context.config
    text = str(held["text"]).replace("|", "\\|")
    return f'"{text}", {"its embedding trained" if held["learned"] else "fixed"}'
