"""The loop of one worker, its checkpoints, and the launch on Ray Train."""
