"""Tell what is wrong with a shard whose header is damaged, as a process of its own: HDF5 may crash or hang on it.

``python -m mvdiff.shard.autopsy SHARD`` prints a JSON list of [row, sample id, why].
"""

import json
import sys
from pathlib import Path

from mvdiff.shard.handle import Handle
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.seal import DamagedShard
from mvdiff.shard.verify import bad_rows


def autopsy(path: Path) -> list[tuple[int, str, str]]:
    """Row (-1 for the shard as a whole), sample id and reason for all that is found damaged."""
    try:
        reader = ShardReader.of_handle(Handle(path, sealed=False))
    except DamagedShard as error:
        return [(-1, "", error.why)]
    return [(bad.row, bad.sample_id, bad.why) for bad in bad_rows(reader)]


if __name__ == "__main__":
    print(json.dumps(autopsy(Path(sys.argv[1]))))
