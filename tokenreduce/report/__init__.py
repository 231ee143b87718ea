"""What a table says: its rows as values, printed for people and as JSON with the same numbers."""

from tokenreduce.report.report import Report
from tokenreduce.report.row import Comparison, Row, Verdict

__all__ = ["Comparison", "Report", "Row", "Verdict"]
