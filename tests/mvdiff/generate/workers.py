"""What tests of workers look at, and settings that let them wait for fractions of a second."""

from mvdiff.generate import sample_seed

QUICK = {"lease_seconds": 0.9, "heartbeat_seconds": 0.3, "poll_seconds": 0.1}


def settled(folder):
    """No lease, unfinished attempt or temporary file is left."""
    return not [
        path for path in folder.rglob("*") if path.is_file() and path.parent.name not in (folder.name, "ledger")
    ]


def seeds_of(bench, *numbers):
    return {sample_seed(bench.recipe.seed, f"mouse-{k:03d}") for k in numbers}
