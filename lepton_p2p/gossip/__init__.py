"""Push-sum: whose weight it is, what is on its way, and who is asked for more.  Pure; it knows no tensors."""
