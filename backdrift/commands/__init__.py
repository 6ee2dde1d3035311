"""The commands: each file is one command, and holds its `main(config)`, which nothing imports."""
