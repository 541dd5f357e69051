"""Shards: HDF5 files of samples, a row a sample, that survive kills, full disks and flipped bits."""

from mvdiff.shard.codec import CODECS
from mvdiff.shard.dataset import ShardDataset
from mvdiff.shard.index import ShardIndex
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import CorruptRow, Sample
from mvdiff.shard.verify import BadRow, verify_shard
from mvdiff.shard.writer import ShardWriter

__all__ = [
    "CODECS", "BadRow", "CorruptRow", "Sample", "ShardDataset", "ShardIndex", "ShardReader", "ShardWriter",
    "verify_shard",
]  # fmt: skip
