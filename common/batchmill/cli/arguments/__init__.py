"""What the commands are given: the options that several share, the job that is named, the files that are read."""
