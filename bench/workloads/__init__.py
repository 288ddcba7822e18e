"""The workloads, one a module: ABOUT says what it measures, `run` measures it and gives the table."""
