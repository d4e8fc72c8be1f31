"""Prefect: runs recorded there, its server, and the schedule."""
