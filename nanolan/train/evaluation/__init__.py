"""How good a checkpoint is: the tasks of ChatCORE, answered and counted, as a job of its own."""
