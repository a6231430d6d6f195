"""What stands in for MLflow's client: it remembers what arrived, and its server is away, busy or strict on demand."""

from types import SimpleNamespace


class Client:
    """Knows one experiment, and each run by the name of its job."""

    tracking_uri = "http://mlflow.example"

    def __init__(self) -> None:
        self.fault: Exception | None = None
        """What every call raises."""
        self.arrived: list[tuple] = []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        self._answer()
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, experiment_ids: list[str], search: str, max_results: int) -> list[SimpleNamespace]:
        self._answer()
        job = search.split("rdd.job` = '")[1].rstrip("'")
        return [SimpleNamespace(info=SimpleNamespace(run_id=job))]

    def update_run(self, run_id: str, status: str) -> None:
        self._answer()

    def get_run(self, run_id: str) -> SimpleNamespace:
        self._answer()
        return SimpleNamespace(data=SimpleNamespace(params={}))

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        self._answer()
        self.arrived += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.arrived += [(param.key, param.value) for param in params]

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self._answer()
        self.arrived.append((run_id, name, value))

    def set_terminated(self, run_id: str, status: str) -> None:
        self._answer()
        self.arrived.append((status,))

    def _answer(self) -> None:
        if self.fault is not None:
            raise self.fault
