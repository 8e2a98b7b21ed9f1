"""The report: one self-contained HTML file that a newcomer can read and a reviewer can check."""

from onceproof_chaos.report.page import render, write_report

__all__ = ["render", "write_report"]
