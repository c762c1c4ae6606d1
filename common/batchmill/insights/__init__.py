"""What jobs will take, and what operators took: plans, trends and trials, as users see them."""
