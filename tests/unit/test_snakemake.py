"""What is turned off in Snakemake."""

from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from chord.cluster.snakemake import look_for_jobs_when_one_ends


def test_snakemake_looks_for_jobs_again_by_itself_only_where_its_limit_of_jobs_a_second_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", lambda _, delay: looks.append(delay))
    look_for_jobs_when_one_ends()
    limiter = JobRateLimiter(MaxJobsPerTimespan(2, "1s"))
    scheduler: Any = SimpleNamespace(job_rate_limiter=limiter)
    JobScheduler._schedule_reevalutation(scheduler, 1)
    assert looks == []
    limiter.register_jobs(2)
    JobScheduler._schedule_reevalutation(scheduler, 1)
    assert looks == [1]
