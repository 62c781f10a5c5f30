"""Real-ESRGAN: pictures and frames, two to four times as large."""
