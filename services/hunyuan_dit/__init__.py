"""HunyuanDiT, which paints a picture anew in another style."""
