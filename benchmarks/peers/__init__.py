"""The same work with other serving frameworks. These programs run in `.venv-peers`, see `peers/venv.py`."""
