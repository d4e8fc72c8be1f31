"""What runs when: the bridge to DVC, the workers, the Prefect flows, schedules, and the ``mergeline`` command."""
