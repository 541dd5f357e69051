"""Six views for every sample, each exactly once: plans, leases, workers, result sets."""

from mvdiff.generate.plan import Plan, Slice, make_plan
from mvdiff.generate.results import ResultStore
from mvdiff.generate.settings import GenerateSettings, Recipe, sample_seed
from mvdiff.generate.status import Status, status
from mvdiff.generate.worker import SamplerBroken, run_worker

__all__ = [
    "GenerateSettings", "Plan", "Recipe", "ResultStore", "SamplerBroken", "Slice", "Status", "make_plan", "run_worker",
    "sample_seed", "status",
]  # fmt: skip
