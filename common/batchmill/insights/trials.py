"""Trials of settings: what is tried, with which outcome, and until when it holds."""

from __future__ import annotations

from enum import StrEnum

from batchmill.jobs.frozen import Frozen


class TrialState(StrEnum):
    """What has become of a trial."""

    RUNNING = "running"  # too few pairs are known
    WON = "won"  # the candidate takes less time: it is used until the trial expires
    LOST = "lost"  # the candidate takes more time
    ALIKE = "alike"  # the two differ by less than 1 %, if at all
    UNDECIDED = "undecided"  # noise hides a difference, if there is one
    STOPPED = "stopped"  # a guard has ended it, see `why`


class Trial(Frozen):
    """One trial: batches with a setting changed, each beside one with the usual setting on the same worker."""

    id: str
    operator: str
    params: str
    """The first digits of a digest of its parameters."""
    device_type: str
    setting: str
    """`batch_scale`: the size of a batch, times that which the worker computes to meet the targets of the job."""
    usual: float
    """The value that is compared with."""
    candidate: float
    """The value that is tried."""
    state: TrialState = TrialState.RUNNING
    why: str = ""
    """Which guard has ended it."""
    pairs: int = 0
    """Batches with the candidate that were compared with one beside them."""
    mean_log: float = 0.0
    """Mean of the logarithms of the ratios: time a unit with the candidate over that with the usual value."""
    squares: float = 0.0
    """Sum of the squared deviations of these logarithms from their mean."""
    ratio: float | None = None
    """Time a unit with the candidate over that with the usual value; None: no pair yet."""
    low: float | None = None
    """Lower end of the interval of the ratio, which holds in 95 of 100 trials whenever it is looked at."""
    high: float | None = None
    """Upper end of that interval."""
    started_at: float
    """Seconds since the epoch."""
    updated_at: float
    """Seconds since the epoch."""
    expires_at: float | None = None
    """Until when its outcome holds, in seconds since the epoch; then it may be tried again. None: it runs."""


class TrialList(Frozen):
    """The trials of all operators, the latest first."""

    trials: list[Trial]
