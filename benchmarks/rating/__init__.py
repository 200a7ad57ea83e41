"""What rating costs: the SQL rater, the reference rater, and both with their comparison."""
