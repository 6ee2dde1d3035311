"""Networks from elsewhere as models, models to elsewhere, and whether a network is read rightly."""
