"""How sure a measured number is: intervals, paired tests, and what is worth its cost."""

from tokenreduce.statistics.bootstrap import bootstrap_difference, bootstrap_mean, bootstrap_median
from tokenreduce.statistics.front import pareto_front
from tokenreduce.statistics.significance import clustered_t_test, holm, mcnemar
from tokenreduce.statistics.wilson import clustered_wilson, effective_size, wilson_interval

__all__ = [
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_median",
    "clustered_t_test",
    "clustered_wilson",
    "effective_size",
    "holm",
    "mcnemar",
    "pareto_front",
    "wilson_interval",
]
