"""Prometheus metrics, read from the database at each scrape, so that every replica reports the same values."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from composition.records.store import Store


class JobCollector(Collector):
    """Number of jobs by model and status, age of the oldest queued job, and number and duration of stages."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("reelgraph_jobs", "Number of stored jobs.", labels=["model", "status"])
        for model, status, count in self._store.count_jobs():
            jobs.add_metric([model, status], count)
        yield jobs
        age_s = self._store.measure_queue_wait()
        yield GaugeMetricFamily("reelgraph_queue_oldest_seconds", "Age of the oldest queued job.", value=age_s)
        runs = GaugeMetricFamily("reelgraph_stage_runs", "Number of completed stages.", labels=["stage", "model"])
        durations = GaugeMetricFamily(
            "reelgraph_stage_seconds", "Total duration of completed stages.", labels=["stage", "model"]
        )
        for stage, model, count, seconds in self._store.sum_stage_seconds():
            runs.add_metric([stage, model], count)
            durations.add_metric([stage, model], seconds)
        yield runs
        yield durations

    def describe(self) -> Iterator[Metric]:
        """Return no metrics, so that registering the collector does not query the database."""
        return iter(())
