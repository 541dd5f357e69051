"""Samples whose input could not be read when its slice was made, and can be read now."""

from mvdiff.generate.inputs import InputReader, Unreadable
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.plan import Plan
from mvdiff.generate.status import quarantined
from mvdiff.shard import ShardIndex


def mended(plan: Plan, index: ShardIndex) -> list[str]:
    """The quarantined samples of ``plan`` that failed as inputs and that ``index`` holds whole: each is read once.

    One that a sampler failed on stays where it is.
    """
    failed = {
        line["sample_id"]
        for line in read_ledger(plan.folder)
        if line["kind"] == "failed" and line.get("stage") == "input"
    }
    # Without failures nothing is lost to look for, and the plan need not be compared with the published slices.
    bad = failed and failed & quarantined(plan).keys()
    if not bad:
        return []
    reader = InputReader(plan.recipe.reference_view)
    found = []
    for i, sample_id in enumerate(index.ids):
        if sample_id not in bad:
            continue
        try:
            reader.read(*index.locate(i), sample_id, index.checksum(i))
        except Unreadable:
            continue
        found.append(sample_id)
    reader.close()
    return found
