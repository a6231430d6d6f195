"""What Ray Tune searches with: the sampler of each domain, the search algorithm, and early stopping."""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from rdd.config import Config
from rdd.runs.search_space import Domain


def param_space(config: Config, space: Mapping[str, Domain]) -> dict[str, Any]:
    """Ray Tune's sampler of each domain, by dotted path."""

    def sampler(domain: Domain) -> Any:
        if domain.kind == "uniform":
            return tune.uniform(*domain.values)
        if domain.kind == "loguniform":
            return tune.loguniform(*domain.values)
        if domain.kind == "grid" or config.tune.search == "grid":
            return tune.grid_search(list(domain.values))
        return tune.choice(list(domain.values))

    return {path: sampler(domain) for path, domain in space.items()}


def searcher(config: Config, concurrent: int) -> Any:
    """The search algorithm that ``tune.search`` names; it runs ``concurrent`` trials at a time, 0: as many as fit."""
    if config.tune.search == "optuna":
        return OptunaSearch(seed=config.tune.seed)
    return BasicVariantGenerator(max_concurrent=concurrent, random_state=config.tune.seed)


def scheduler(config: Config) -> Any:
    """What stops trials early, as ``tune.scheduler`` says."""
    options, epochs = config.tune, config.train.epochs
    if options.scheduler == "none" or options.grace_epochs >= epochs:
        return FIFOScheduler()
    grace, factor = options.grace_epochs, options.reduction_factor
    return ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=factor)
