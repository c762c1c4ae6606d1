"""What jobs will take, and what operators took: plans and trends, as users see them."""
