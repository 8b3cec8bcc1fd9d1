"""Many runs of one command line: their names, devices and failures, and what a restart has left to do."""
