"""Evaluation with lmms-eval: our model in its runs, its tasks in ours, ours in its.

Only ``model``, ``tasks`` and ``manifest`` import lmms-eval, inside functions or when it has loaded
them: it is an extra with an environment of its own.
"""
