"""Robustness cards for people and programs: HTML, Markdown, JUnit, an ML-BOM, comparisons."""
