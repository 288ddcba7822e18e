"""The programs that the workloads compare: each module starts one, set up for a task, and ends it with the block."""
