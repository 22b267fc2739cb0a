"""What an adapted network reaches: metrics, results, similarity, and their reports."""
