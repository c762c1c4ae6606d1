"""What is read of many jobs at once: indexes of what there is to do, figures and sums. Only a lost index is written."""
