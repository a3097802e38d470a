"""The proof: batch rows, stream rows, online rows and served answers, compared bit by bit."""
