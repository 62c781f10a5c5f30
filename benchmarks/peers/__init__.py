"""The same work as other serving frameworks do it. These programs run in `.venv-peers`, see `peers/venv.py`."""
