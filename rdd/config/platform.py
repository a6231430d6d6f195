"""Settings of where a job runs and where it is tracked."""

import re
from dataclasses import dataclass

from rdd.config.checks import DAY_S, check


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Workers of the training run."""

    num_workers: int = 1
    """Ray Train workers, at least 0; 0 trains in the driver, without the trainer's start-up."""
    min_workers: int = 0
    """Workers, in [0, num_workers], with which training begins, and goes on when nodes are lost; it grows again up to
    num_workers, and the global batch stays the same. 0: as many as num_workers, so a lost node is waited for. Without a meaning
    where num_workers is 0."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a worker, above 0."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a worker, at least 0."""

    def __post_init__(self) -> None:
        check(self.num_workers >= 0, "scaling.num_workers", "be at least 0", self.num_workers)
        check(
            0 <= self.min_workers <= (self.num_workers or self.min_workers),
            "scaling.min_workers",
            f"lie in [0, scaling.num_workers = {self.num_workers}]",
            self.min_workers,
        )
        check(self.cpus_per_worker > 0, "scaling.cpus_per_worker", "be above 0", self.cpus_per_worker)
        check(self.gpus_per_worker >= 0, "scaling.gpus_per_worker", "be at least 0", self.gpus_per_worker)

    @property
    def least_workers(self) -> int:
        """With fewer training waits."""
        return min(self.min_workers or self.num_workers, self.num_workers)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    """Whether the job is an MLflow run."""
    uri: str = ""
    """Tracking server or sqlite:///FILE; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = "rdd"
    """Experiment of the runs."""
    run_name: str = ""
    """Name of the run; by default that of its directory."""
    register: str = ""
    """Name in MLflow's registry of models under which jobs/train.py registers its detector; empty to register nothing."""
    register_alias: str = "champion"
    """Alias that then points to the new version, as in models:/NAME@champion: letters, digits, _ and -; neither latest nor such
    as v1."""

    def __post_init__(self) -> None:
        check(bool(self.experiment), "tracking.experiment", "name an experiment", repr(self.experiment))
        allowed = not re.search(r"[/:'\"]", self.register) and self.register == self.register.strip()
        check(allowed, "tracking.register", "be a name without / : and quotes", repr(self.register))
        check(self.enabled or not self.register, "tracking.register", "be empty when tracking.enabled is false", self.register)
        alias = self.register_alias
        free = re.fullmatch(r"[\w-]{1,255}", alias) and alias.lower() != "latest" and not re.fullmatch(r"[vV]\d+", alias)
        named = "be letters, digits, _ and -, and neither latest nor such as v1"
        check(bool(free), "tracking.register_alias", named, repr(alias))


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The Ray that a job runs on."""

    address: str = "auto"
    """auto: the running cluster if there is one, else a local Ray; local: always a local Ray; else the cluster's address."""
    num_cpus: int = 0
    """CPUs of a local Ray, at least 0; 0 takes those of the machine."""
    wait_s: float = 0.0
    """Seconds, at least 0, to wait for a running cluster to grow to what the job needs (autoscaling)."""

    start_timeout_s: float = 1800.0
    """Seconds, in (0, 86400], in which workers must start and begin to load; a stall is counted from then on."""

    def __post_init__(self) -> None:
        check(bool(self.address), "cluster.address", "be auto, local or an address", repr(self.address))
        check(self.num_cpus >= 0, "cluster.num_cpus", "be at least 0", self.num_cpus)
        check(0 <= self.wait_s < float("inf"), "cluster.wait_s", "be at least 0 and finite", self.wait_s)
        check(0 < self.start_timeout_s <= DAY_S, "cluster.start_timeout_s", "lie in (0, 86400]", self.start_timeout_s)
