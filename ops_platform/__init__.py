"""Operations of a small self-hosted stack: planners decide, systems act, Dagster shows."""
