"""Benchmarks: local mode against what serverless platforms use today."""
