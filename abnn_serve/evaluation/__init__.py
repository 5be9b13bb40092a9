"""Attack runs and bundles, and write their robustness cards; needs both torch and the runtime."""
