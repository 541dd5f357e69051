"""Multi-view diffusion for pictures of laboratory mice: data, model, training, generation, metrics.

The public names are loaded on first use, so that ``import mvdiff`` costs nothing and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvdiff.evaluate.consistency import view_consistency
    from mvdiff.generate.results import ResultStore
    from mvdiff.model.pipeline import MultiViewPipeline
    from mvdiff.shard.dataset import ShardDataset

__version__ = "0.1.0"
__all__ = ["MultiViewPipeline", "ResultStore", "ShardDataset", "view_consistency"]

_HOME = {
    "MultiViewPipeline": "mvdiff.model.pipeline",
    "ResultStore": "mvdiff.generate.results",
    "ShardDataset": "mvdiff.shard.dataset",
    "view_consistency": "mvdiff.evaluate.consistency",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mvdiff' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
