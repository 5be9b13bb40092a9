"""The fifteen corruptions of Hendrycks & Dietterich (ICLR 2019), and accuracy under them."""
