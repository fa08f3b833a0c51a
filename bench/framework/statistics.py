"""What is said of a series of samples, and of two series measured in turns."""
import dataclasses
import math


def percentile(samples, percent):
    """The smallest sample that `percent` % of the samples do not exceed (nearest rank); no value is invented."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(samples):
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclasses.dataclass(frozen=True)
class Summary:
    count: int
    min: float
    median: float
    p99: float
    max: float


def summarize(samples):
    return Summary(len(samples), min(samples), median(samples), percentile(samples, 99), max(samples))


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of samples taken side by side: a machine that was slow for both in one round says nothing about either."""

    count: int
    median: float
    p25: float
    p75: float


def ratio(samples, baseline):
    """Pair by pair. Both are {round: value}; rounds that only one of them has are left out. None without a pair."""
    pairs = [samples[key] / baseline[key] for key in samples if baseline.get(key)]
    if not pairs:
        return None
    return Ratio(len(pairs), median(pairs), percentile(pairs, 25), percentile(pairs, 75))


def difference(samples, baseline):
    """Pair by pair, as ratio(): the list of sample - baseline."""
    return [samples[key] - baseline[key] for key in samples if key in baseline]
