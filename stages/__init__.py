"""The stages: each reads its inputs from disk, calls the library, writes its outputs.

The only layer that knows files. A stage runs alone with ``python -m stages NAME [CELL]`` on a machine without DVC and
Prefect; which files it reads and writes is declared in :mod:`stages.plan.pipelines`.
"""
