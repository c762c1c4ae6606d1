"""What is read of many jobs at once: the indexes of what there is to do, figures and sums."""
