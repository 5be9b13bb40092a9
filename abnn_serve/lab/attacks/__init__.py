"""White-box and query attacks, each within a budget."""
