"""Numbers for Prometheus, read from the database when they are asked for, so that every replica tells the same."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from composition.records.store import Store


class JobCollector(Collector):
    """Jobs by model and status, how long the oldest has waited, and what the stages took."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("reelgraph_jobs", "Jobs that are remembered.", labels=["model", "status"])
        for model, status, count in self._store.count_jobs():
            jobs.add_metric([model, status], count)
        yield jobs
        waited = self._store.measure_queue_wait()
        yield GaugeMetricFamily("reelgraph_queue_oldest_seconds", "How long the oldest job has waited.", value=waited)
        runs = GaugeMetricFamily("reelgraph_stage_runs", "Stages that were done.", labels=["stage", "model"])
        spent = GaugeMetricFamily("reelgraph_stage_seconds", "Seconds that they took.", labels=["stage", "model"])
        for stage, model, count, seconds in self._store.sum_stage_seconds():
            runs.add_metric([stage, model], count)
            spent.add_metric([stage, model], seconds)
        yield runs
        yield spent

    def describe(self) -> Iterator[Metric]:
        """Nothing: the database is not asked before somebody wants to know."""
        return iter(())
