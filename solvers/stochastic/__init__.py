"""The reverse SDE of any process, correctors, and Brownian motion."""
