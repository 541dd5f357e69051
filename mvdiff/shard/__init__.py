"""Shards: HDF5 files, a row a sample, that survive kills, full disks and flipped bits."""

from mvdiff.shard.codec import CODECS
from mvdiff.shard.dataset import ShardDataset
from mvdiff.shard.index import ShardIndex, find_shards
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import CorruptRow, Sample
from mvdiff.shard.seal import DamagedShard
from mvdiff.shard.verify import BadRow, VerifyReport, each_shard, verify, verify_shard, verify_shards
from mvdiff.shard.writer import ShardWriter

__all__ = [
    "CODECS", "BadRow", "CorruptRow", "DamagedShard", "Sample", "ShardDataset", "ShardIndex", "ShardReader",
    "ShardWriter", "VerifyReport", "each_shard", "find_shards", "verify", "verify_shard",
    "verify_shards",
]  # fmt: skip
